"""Parked runs: a worker ends while its step only waits, for hosts or for a job that runs, and gives its memory back.

A worker takes about 130 MB, and a step may wait for days. So after a while it leaves a record and ends; the follower
(`runs/follower.py`), one process for all parked runs, starts another when there is something to do. That one takes the
run over as it would from a dead worker. Only runs that the run launcher started are parked.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg
from pydantic import TypeAdapter

from aquarat_pipeline.hosts.records import replace
from aquarat_pipeline.jobs.run_monitor import is_resumed
from aquarat_pipeline.workers import PARK_AFTER, parked, show_alive


@dataclass(frozen=True, slots=True)
class Parked:
    """What the follower must know of a parked run."""

    run: str
    stage: str
    asset: tuple[str, ...]
    """Parts of the key of the asset that its step makes."""
    ticket: str
    """Name of its step's ticket, if it waits for hosts."""
    job: str | None = None
    """URI of the folder of its running job; None if it waits."""
    hosts: tuple[str, ...] = ()
    """By node."""
    restarts: int = 0
    """How often its step was started again because a host was lost."""
    avoid: tuple[str, ...] = ()
    """Hosts on which it has just failed."""


class Parking:
    """Decides when this worker ends; `wait` is called again for everything that it waits for."""

    def __init__(self, instance: dg.DagsterInstance, live_run: Callable[[], dg.DagsterRun | None]) -> None:
        self._instance = instance
        self._live_run = live_run
        self._after = float(os.environ.get(PARK_AFTER) or 0)
        self._since: float | None = None

    def begin(self) -> None:
        """From now on, the step only waits."""
        self._since = time.monotonic()

    def end_if_due(self, record: Parked) -> None:
        """Ends this process if the step has waited long enough and another worker can take the run over."""
        if not self._after or self._since is None or time.monotonic() - self._since < self._after:
            return
        run = self._live_run()
        if run is None or not is_resumed(run):
            return
        home = Path(self._instance.root_directory)
        what = f"the job runs on {', '.join(record.hosts)}" if record.job else "its step waits for hosts"
        self._instance.report_engine_event(
            f"The run is parked while {what}: its worker {os.getpid()} ends, and another one continues", run
        )
        show_alive(home, run.run_id)
        write(home, record)
        sys.stdout.flush()
        sys.stderr.flush()
        # If this process returned or raised in any way, Dagster would end the run.
        os._exit(0)


def read(home: Path, run_id: str) -> Parked | None:
    """The record of the run, if it is parked."""
    with suppress(FileNotFoundError, ValueError, RecursionError):
        return parse_parked((parked(home) / f"{run_id}.json").read_bytes())
    return None


def write(home: Path, record: Parked) -> None:
    """From now on the run is parked."""
    parked(home).mkdir(parents=True, exist_ok=True)
    replace(parked(home) / f"{record.run}.json", asdict(record))


parse_parked = TypeAdapter(Parked).validate_json
"""Reads a record; raises ValueError."""
