"""`aquarat sweep --queue` with a daemon: runs go on without the command, and none is made twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest
import yaml

from aquarat_core.agent import processes
from aquarat_core.artifacts import ArtifactStore
from aquarat_pipeline.assets.maintenance import differences
from aquarat_pipeline.tags import EXPERIMENT_TAG
from tests.patience import limit, wait_until
from tests.sweeps.conftest import TOYS, Sweeper

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SWEEP = """
profile: demo
fields: {tokenizer.vocab_size: [300, 400, 500]}
make: [pretrain_tokens]
"""
SHARED = ("aqua_dataset", "chat_datasets", "pretrain_text")
AT_ONCE = 2
"""Runs that the daemon starts, of three points."""


class Queue(Sweeper):
    """A home with a daemon, whose stages `chat_datasets` and `tokenizer` are held until they are let go."""

    def __init__(self, root: Path, directory: Path) -> None:
        super().__init__(root, directory)
        (directory / "lr.yaml").write_text(SWEEP)
        dagster = self.home / "dagster.yaml"
        settings = yaml.safe_load(dagster.read_text())
        settings["run_coordinator"]["config"]["max_concurrent_runs"] = AT_ONCE
        settings["run_monitoring"]["poll_interval_seconds"] = 1
        dagster.write_text(yaml.safe_dump(settings))
        location = {"module_name": TOYS, "location_name": "aquarat", "working_directory": str(root)}
        self.workspace = directory / "workspace.yaml"
        self.workspace.write_text(yaml.safe_dump({"load_from": [{"python_module": location}]}))
        self.orders |= {name: {"hold": str(directory / name)} for name in ("chat_datasets", "tokenizer")}
        # A daemon that opens a new home at the same time as another process can fail.
        dg.DagsterInstance.from_config(str(self.home)).dispose()
        self._daemon = self._start("-m", "dagster._daemon", "run", "-w", str(self.workspace), log="daemon.log")

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "AQUARAT_TEST_CLUSTER": str(self.directory)}

    def queue(self) -> subprocess.Popen[bytes]:
        """`aquarat sweep lr.yaml --queue` in the background; its output is in `sweep.log`."""
        return self._start("-m", "aquarat_core.cli", "sweep", "lr.yaml", "--queue", log="sweep.log")

    def _start(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        env = self.environment
        if "dagster._daemon" in command:
            del env["DAGSTER_MODULE_NAME"]  # the workspace file names it
        with (self.directory / log).open("ab") as out:
            return subprocess.Popen(
                [sys.executable, *command], env=env, cwd=self.directory, stdout=out, stderr=out, start_new_session=True
            )

    def said(self) -> str:
        return (self.directory / "sweep.log").read_text()

    def held(self, asset: str) -> None:
        """Until the stage of the asset is at work."""
        wait_until((self.directory / f"{asset}.held").exists, 120, f"{asset} is at work")

    def let_go(self, asset: str) -> None:
        (self.directory / f"{asset}.go").touch()

    def statuses(self) -> list[str]:
        """Of all runs, the oldest first."""
        return [run.status.value for run in reversed(self.runs())]

    def close(self) -> None:
        self._daemon.kill()
        self._daemon.wait()
        for pid in processes.processes_with_env("AQUARAT_TEST_CLUSTER", str(self.directory)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def queue(root: Path, tmp_path: Path) -> Iterator[Queue]:
    made = Queue(root, tmp_path)
    try:
        yield made
    finally:
        made.close()


def killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_a_sweep_that_is_killed_twice_runs_nothing_twice(queue: Queue) -> None:
    first = queue.queue()
    queue.held("chat_datasets")
    killed(first)
    assert queue.statuses() == ["STARTED"], "one run makes what the points share"

    second = queue.queue()
    wait_until(lambda: "goes on with 1 run" in queue.said(), 120, "it has found the run")
    assert queue.statuses() == ["STARTED"] and queue.said().count("is queued") == 1
    queue.let_go("chat_datasets")
    wait_until(lambda: len(queue.runs()) == 4, 120, "a run for each point is queued")
    queue.held("tokenizer")
    wait_until(lambda: queue.statuses().count("STARTED") == AT_ONCE, 120, "as many run as may at once")
    assert queue.statuses() == ["SUCCESS", "STARTED", "STARTED", "QUEUED"]
    killed(second)

    queue.let_go("tokenizer")
    wait_until(lambda: queue.statuses() == ["SUCCESS"] * 4, 240, "the runs end without the command")
    third = queue.queue()
    assert third.wait(limit(120)) == 0, queue.said()
    assert "all 3 points are made" in queue.said()
    assert len(queue.runs()) == 4 and queue.said().count("is queued") == 4
    assert queue.made() == dict.fromkeys(SHARED, 1) | {"tokenizer": 3, "pretrain_tokens": 3}
    assert len({run.tags[EXPERIMENT_TAG] for run in queue.runs()}) == 3
    with dg.DagsterInstance.from_config(str(queue.home)) as instance:
        assert differences(instance, ArtifactStore.open(queue.environment["AQUARAT_STORE"])) == []


def test_all_runs_of_a_sweep_are_cancelled_whether_they_run_or_wait(queue: Queue) -> None:
    queue.let_go("chat_datasets")
    process = queue.queue()
    queue.held("tokenizer")
    wait_until(lambda: queue.statuses() == ["SUCCESS", "STARTED", "STARTED", "QUEUED"], 120, "runs run and wait")
    out = queue.sweep("--cancel")
    assert out.returncode == 0 and "the sweep lr is cancelled, with 3 runs;" in out.stdout, out.stderr + out.stdout
    assert process.poll() == 128 + signal.SIGINT, "the command has ended before"
    assert queue.statuses() == ["SUCCESS", "CANCELED", "CANCELED", "CANCELED"]
    assert "To go on: aquarat sweep lr.yaml" in queue.said()
    queue.let_go("tokenizer")
    again = queue.queue()
    assert again.wait(limit(240)) == 0, queue.said()
    assert queue.made() == dict.fromkeys(SHARED, 1) | {"tokenizer": 3, "pretrain_tokens": 3}
