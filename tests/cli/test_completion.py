"""What a shell completes, asked as bash asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.cli import main
from aquarat_core.cli.completion import SHELLS

COMPLETE = """
source <({python} -m aquarat_core.cli completion bash)
COMP_LINE="$1"; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9; COMP_KEY=9
read -ra COMP_WORDS <<<"$COMP_LINE"; COMP_CWORD=${{#COMP_WORDS[@]}}
_python_argcomplete aquarat
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def complete(line: str, tmp_path: Path) -> list[str]:
    tool = tmp_path / "bin" / "aquarat"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m aquarat_core.cli "$@"\n')
    tool.chmod(0o755)
    env = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", COMPLETE.format(python=sys.executable), "bash", line], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [word.strip() for word in done.stdout.splitlines() if word.strip()]


@pytest.fixture(autouse=True)
def store(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with two assets, one of them in an experiment, and a Dagster home with that experiment."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "a").write_text("a")
    for name in ("rl_checkpoint", "sft_checkpoint"):
        ArtifactStore.open(store_uri).publish(
            asset=name, kind="checkpoint", directory=files, config={}, profile="demo", run_id="r", parents=[],
            metrics={}, seeds={}, code=CodeVersion(version="1" * 64),
        )  # fmt: skip
    home = tmp_path / "dagster_home"
    (home / "aquarat" / "experiments").mkdir(parents=True)
    (home / "aquarat" / "experiments" / "wide.yaml").write_text("profile: tiny\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("aquarat mat", {"materialize"}),
        ("aquarat show rl_", {"rl_checkpoint"}),
        ("aquarat launch wide/rl_c", {"wide/rl_checkpoint"}),
        ("aquarat launch rl_checkpoint --profile ti", {"tiny"}),
        ("aquarat launch rl_checkpoint --set rl_checkpoint.ste", {"rl_checkpoint.steps="}),
        ("aquarat experiments remove w", {"wide"}),
        ("aquarat store p", {"pull", "push", "pin"}),
        ("aquarat lineage --lo", {"--long"}),
    ],
)
def test_what_exists_is_completed(line: str, expected: set[str], tmp_path: Path) -> None:
    assert set(complete(line, tmp_path)) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_the_code_is_that_of_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert "aquarat" in code and "_ARGCOMPLETE" in code
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=code, text=True, capture_output=True).returncode == 0
