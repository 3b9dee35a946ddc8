"""Checks whether a run still needs its job: the UI, the daemon or another terminal may cancel it at any time."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg

from aquarat_pipeline._compat import DagsterExecutionInterruptedError
from aquarat_pipeline.workers import show_alive, worker_of

CHECK_RUN_SECONDS = 5.0
STOPPED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)


class RunMonitor:
    """Checks one run's status in Dagster's database."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str) -> None:
        self._instance = instance
        self._run_id = run_id
        self._checked = time.monotonic()

    def check(self, *, now: bool = False) -> None:
        """Records that this worker is alive, and raises Dagster's interrupt if the run was cancelled or has failed.

        Reads the database at most every few seconds; with `now`, always.
        """
        if not now and time.monotonic() - self._checked < CHECK_RUN_SECONDS:
            return
        self._checked = time.monotonic()
        show_alive(Path(self._instance.root_directory), self._run_id)
        run = self._instance.get_run_by_id(self._run_id)
        if run is None or run.status in STOPPED:
            raise DagsterExecutionInterruptedError()

    def live_run(self) -> dg.DagsterRun | None:
        """The run, or None if it was cancelled or has failed."""
        run = self._instance.get_run_by_id(self._run_id)
        return run if run and run.status not in STOPPED else None


def is_resumed(run: dg.DagsterRun) -> bool:
    """Whether the daemon will give the run another worker when this one is gone."""
    worker = worker_of(run.tags)
    return worker is not None and worker["kind"] == "launcher"
