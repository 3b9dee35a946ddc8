"""Runs a sweep: takes what the store has, starts what is missing, and goes on until nothing more can be made.

All that is known about a sweep is in the store, in Dagster and in its file. So a sweep whose process was killed goes on
when it is started again, in this way or the other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from aquarat_core.agent import processes
from aquarat_core.artifacts import ArtifactStore
from aquarat_core.settings import store_uri
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline import experiments
from aquarat_pipeline._compat import NOT_FINISHED_STATUSES
from aquarat_pipeline.assets.reuse import Earlier
from aquarat_pipeline.assets.sharing import take
from aquarat_pipeline.locks import HeldError, held, is_held
from aquarat_pipeline.runs import profiles, resuming, submit
from aquarat_pipeline.sweeps.planning import Launch, SweepPlan, launches, planned
from aquarat_pipeline.sweeps.spec import Point, Sweep, SweepError
from aquarat_pipeline.tags import EXPERIMENT_TAG, SWEEP_TAG
from aquarat_pipeline.workers import is_here, is_parked, worker_of

POLL_SECONDS = 2.0
PLAN_SECONDS = 30.0
"""After so long the plan is made again even if no run of the sweep has ended: other runs make results too."""
PLAN_SHARE = 0.1
"""Planning takes at most this share of the time, because a sweep of hundreds of points is planned for minutes."""
CANCEL_SECONDS = 120.0
"""How long the process that runs a sweep may take to notice that it is cancelled: it may be planning."""
LOOK_SECONDS = 0.5
Start = Callable[[Launch], dg.DagsterRun | None]
"""Starts a launch; returns its run, or None if it has already made everything. Raises `NotMadeError`."""


class NotMadeError(SweepError):
    """A launch that could not be started, or has ended and failed; the message says why."""


class SweepCancelledError(SweepError):
    """The sweep was cancelled while it ran."""


@dataclass(slots=True)
class Driver:
    """The state of a sweep that this process runs."""

    sweep: Sweep
    instance: dg.DagsterInstance
    say: Callable[[str], None]
    daemon: bool
    """Whether a daemon is there that goes on with runs whose worker has died."""
    earlier: Earlier = field(init=False)
    failures: dict[str, str] = field(default_factory=dict[str, str])
    """Why stages could not be made, by their names."""
    _watched: dict[str, dg.DagsterRun] = field(default_factory=dict[str, dg.DagsterRun])

    def __post_init__(self) -> None:
        self.earlier = Earlier(self.instance, ArtifactStore.open(store_uri()))

    def drive(self, start: Start, at_once: int | None) -> SweepPlan:
        """Makes what can be made, with at most `at_once` launches started before looking again; the plan at the end.

        Raises `SweepCancelledError`.
        """
        if count := len(self._running()):
            self.say(f"the sweep goes on with {count} run{'s' if count > 1 else ''} started before")
        while True:
            self._check_cancelled()
            # The runs before the plan: what a run makes that ends in between is then planned as busy, not made twice.
            running = self._running()
            began = time.monotonic()
            plan = self._taken()
            took = time.monotonic() - began
            ready = self._ready(plan, running)
            if not ready and not running:
                return plan
            for launch in ready[:at_once]:
                self._check_cancelled()
                try:
                    if run := start(launch):
                        self._watched[run.run_id] = run
                except NotMadeError as e:
                    self._failed(map(launch.point.experiment.ref, launch.stages), str(e))
            if at_once is None or not ready:
                self._wait(max(PLAN_SECONDS, took / PLAN_SHARE))

    def _ready(self, plan: SweepPlan, running: Iterable[dg.DagsterRun]) -> list[Launch]:
        """The launches that can start while these runs are in progress."""
        going, making = {run.tags.get(EXPERIMENT_TAG, "") for run in running}, _assets(running)
        busy = {cell.key for cell in plan.cells if cell.how != "made" and cell.ref in making}
        blocked = {cell.key for cell in plan.cells if cell.how in ("new", "shared") and cell.ref in self.failures}
        return launches(plan, busy, blocked, going)

    def _wait(self, seconds: float) -> None:
        """Until one of the runs has ended, another one is there, or the time is over. Raises `SweepCancelledError`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            self._check_cancelled()
            if {run.run_id for run in unfinished(self.instance, self.sweep.name)} != self._watched.keys():
                return

    def _taken(self) -> SweepPlan:
        """The plan, after taking into the sweep's chains what the store has."""
        self.earlier.forget()
        plan = planned(self.instance, self.earlier, self.sweep.points)
        for cell in plan.cells:
            if cell.how == "reused" and cell.artifact is not None:
                take(self.instance, self.earlier.store, cell.point.experiment, STAGES[cell.stage], cell.artifact)
        return plan

    def _running(self) -> list[dg.DagsterRun]:
        """The sweep's runs that have not ended. Notes which of those that were seen before have failed."""
        found = {run.run_id: run for run in unfinished(self.instance, self.sweep.name)}
        for run_id, run in self._watched.items():
            if run_id in found:
                continue
            status = submit.run_of(self.instance, run_id).status
            if status == dg.DagsterRunStatus.CANCELED:
                raise SweepCancelledError(f"run {run_id[:8]} was cancelled, and the sweep ends with it")
            if status != dg.DagsterRunStatus.SUCCESS:
                self._failed(_assets([run]), f"run {run_id[:8]} failed: aquarat tail {run_id[:8]}")
        self._watched = {run_id: run for run_id, run in found.items() if not self._is_dead(run)}
        return list(self._watched.values())

    def _is_dead(self, run: dg.DagsterRun) -> bool:
        """Whether nobody executes the run or will: it is then ended, and the sweep goes on in its place."""
        if is_parked(Path(self.instance.root_directory), run.run_id):
            return False
        worker = worker_of(run.tags)
        # Only this process starts runs of the sweep, so nobody starts one that was created before.
        if run.status != dg.DagsterRunStatus.NOT_STARTED and (
            worker is None or self.daemon or not is_here(worker) or processes.is_alive(worker)
        ):
            return False
        self.say(f"run {run.run_id[:8]} was left unfinished: its stages are started again, and continue")
        resuming.leave_dead(self.instance, run, "the sweep that it belongs to was started again")
        return True

    def _failed(self, assets: Iterable[str], problem: str) -> None:
        self.failures |= dict.fromkeys(assets, problem)

    def _check_cancelled(self) -> None:
        if _mark(Path(self.instance.root_directory), self.sweep.name).exists():
            raise SweepCancelledError(f"the sweep {self.sweep.name} was cancelled; what it has made is kept")


@contextmanager
def sole_driver(home: Path, sweep: Sweep) -> Generator[None]:
    """Lets one process at a time run a sweep, and forgets that it was cancelled before. Raises `SweepError`."""
    path = _lock(home, sweep.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with held(path, f"process {os.getpid()}"):
            _mark(home, sweep.name).unlink(missing_ok=True)
            yield
    except HeldError as e:
        raise SweepError(f"the sweep {sweep.name} is running already, in {e.holder}") from None


def add_experiments(home: Path, points: Iterable[Point]) -> None:
    """Adds the points to the experiments of this Dagster home, where they are not yet. Raises `ExperimentError`."""
    there = experiments.registered()
    for point in points:
        if point.experiment.name not in there:
            kept = profiles.recall(home, profiles.remember(home, point.experiment.profile))
            experiments.add(point.experiment.name, str(kept))


def remove_experiments(points: Iterable[Point]) -> list[str]:
    """Removes the points from the experiments; artifacts and refs stay. Returns the removed names."""
    there = experiments.registered()
    names = [point.experiment.name for point in points if point.experiment.name in there]
    for name in names:
        experiments.remove(name)
    return names


def unfinished(instance: dg.DagsterInstance, sweep: str) -> list[dg.DagsterRun]:
    """The runs of a sweep that have not ended."""
    return list(instance.get_runs(dg.RunsFilter(tags={SWEEP_TAG: sweep}, statuses=NOT_FINISHED_STATUSES)))


def cancel(instance: dg.DagsterInstance, sweep: str) -> list[str]:
    """Cancels all runs of a sweep, and the process that starts them; returns the ids of the runs.

    Waits for that process, which may be about to create a run. Raises `SweepError` if it does not end in time.
    """
    home = Path(instance.root_directory)
    mark = _mark(home, sweep)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    ended: list[str] = []
    deadline = time.monotonic() + CANCEL_SECONDS
    while True:
        # Asked before the runs are read, so that none can be created afterwards.
        driven = is_held(_lock(home, sweep))
        runs = [run for run in unfinished(instance, sweep) if run.run_id not in ended]
        if driven:  # it is just about to start those
            runs = [run for run in runs if run.status != dg.DagsterRunStatus.NOT_STARTED]
        submit.cancel_all(instance, runs)
        ended += [run.run_id for run in runs]
        if not driven:
            return ended
        if time.monotonic() > deadline:
            raise SweepError(
                f"{len(ended)} runs of the sweep {sweep} are cancelled, but {_lock(home, sweep).read_text()} still "
                f"runs it after {CANCEL_SECONDS:.0f} s: end that process, then cancel again"
            )
        time.sleep(LOOK_SECONDS)


def _assets(runs: Iterable[dg.DagsterRun]) -> set[str]:
    return {key.to_user_string() for run in runs for key in run.asset_selection or ()}


def _lock(home: Path, sweep: str) -> Path:
    return _folder(home) / f"{sweep}.lock"


def _mark(home: Path, sweep: str) -> Path:
    return _folder(home) / f"{sweep}.cancelled"


def _folder(home: Path) -> Path:
    return home / "aquarat" / "sweeps"
