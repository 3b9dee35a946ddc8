"""A new Dagster home that several processes open at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROCESSES = 4


@pytest.mark.slow
def test_all_of_several_processes_open_a_new_home(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "dagster_home/dagster.yaml", tmp_path)
    program = (
        "import sys, dagster; from aquarat_pipeline.instance import open_instance; print('ready', flush=True); "
        "sys.stdin.readline(); open_instance().get_runs(); print('opened')"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=root, env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(PROCESSES)
    ]  # fmt: skip
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in started:
        out, err = process.communicate(timeout=120)
        assert (out, process.returncode) == ("opened\n", 0), err
