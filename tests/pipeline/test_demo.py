"""`./run demo` when it cannot work; that it does is the end-to-end test of the whole chain."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("AQUARAT_PROFILE", "nope", "unknown profile 'nope': choose one of"),
        ("AQUARAT_STORE", "file:///proc/nowhere", "file:///proc/nowhere cannot be used"),
    ],
)
def test_the_last_line_says_what_went_wrong(
    root: Path, tmp_path: Path, store_uri: str, variable: str, value: str, expected: str
) -> None:
    (tmp_path / "dagster.yaml").write_text((root / "dagster_home/dagster.yaml").read_text())
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), variable: value}
    command = [sys.executable, "-m", "aquarat_pipeline.demo"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert out.returncode == 1
    answer = json.loads(out.stdout.splitlines()[-1])
    assert answer["ok"] is False
    assert expected in answer["error"] and expected in out.stderr
    assert "Traceback" not in out.stderr and "Stack Trace" not in out.stderr
    assert Path(answer["log"]).is_file()
