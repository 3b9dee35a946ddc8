"""Dagster's own commands in the project, as its manuals have them: `dg` and `dagster`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.terminal import Shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def shell(root: Path, tmp_path: Path) -> Shell:
    return Shell(root, tmp_path)


def command(shell: Shell, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the environment, in the checkout, with the project's own definitions."""
    tool = Path(sys.executable).with_name(words[0])
    env = {**shell.environment, "DAGSTER_MODULE_NAME": "aquarat", "VIRTUAL_ENV": str(tool.parents[1])}
    return subprocess.run([tool, *words[1:]], env=env, cwd=shell.root, capture_output=True, text=True)


def test_dg_checks_and_lists_the_definitions(shell: Shell) -> None:
    checked = command(shell, "dg", "check", "defs")
    assert checked.returncode == 0 and "All definitions loaded successfully" in checked.stdout + checked.stderr
    assert "virtual environment" not in checked.stderr, "no warning to read over"
    assert command(shell, "dg", "check", "toml").returncode == 0
    listed = command(shell, "dg", "list", "defs", "--json")
    assert listed.returncode == 0, listed.stderr
    names = {asset["asset_key"] for asset in json.loads(listed.stdout)["assets"]}
    assert {"aqua_dataset", "rl_checkpoint", "pipeline_report"} <= names


def test_dg_launches_assets_in_the_terminal(shell: Shell) -> None:
    done = command(shell, "dg", "launch", "--assets", "aqua_dataset")
    assert done.returncode == 0, done.stderr
    assert "aqua_dataset: made, 8,000 training questions" in done.stderr
    (run,) = shell.runs()
    assert run.status.value == "SUCCESS"


def test_dagster_queues_a_job(shell: Shell) -> None:
    done = command(shell, "dagster", "job", "launch", "-j", "reevaluation")
    assert done.returncode == 0, done.stderr
    (run,) = shell.runs()
    assert (run.job_name, run.status.value) == ("reevaluation", "QUEUED")
    status = command(shell, "aquarat", "status", "--json")
    assert [one["what"] for one in json.loads(status.stdout)["runs"]] == ["reevaluation"]
