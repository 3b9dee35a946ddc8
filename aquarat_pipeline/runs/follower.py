"""The follower: one process for all parked runs of a DAGSTER_HOME, which shows what their jobs say and wakes the runs.

The daemon starts it as a program when it checks a parked run and none is at work, so one that dies is replaced. It is
the allocator as well, because parked runs that wait for hosts have nobody else. It ends when no run is parked anymore.
Everything it knows is in files and in the store.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeGuard

import dagster as dg

from aquarat_core.agent import processes
from aquarat_pipeline import beats
from aquarat_pipeline.home import dagster_home
from aquarat_pipeline.hosts.allocator import SharedAllocator
from aquarat_pipeline.hosts.queueing import answers, parse_answer
from aquarat_pipeline.hosts.records import Records
from aquarat_pipeline.instance import open_instance
from aquarat_pipeline.jobs.parking import Parked, parse_parked
from aquarat_pipeline.runs.follower_start import LOCK, lock_of
from aquarat_pipeline.runs.parked import Followed, FollowedJob, FollowedWait
from aquarat_pipeline.workers import Worker, is_here, parked, show_alive, unpark, worker_of

log = logging.getLogger("aquarat.follower")

TURN_SECONDS = 0.5
CHECK_SECONDS = 30.0
"""At most, between two looks which parked runs still run."""
IDLE_SECONDS = 60.0
THREADS = 8


class Follower:
    """Call `turn` about twice a second.

    `wake` starts a worker for a run, and says which process that is; `end_cancelled` ends a cancelled run. Where the
    database is shared, a daemon on another machine resumes a run that was not followed for `lost_after_seconds`.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        wake: Callable[[dg.DagsterRun], Worker],
        end_cancelled: Callable[[str], None],
        *,
        max_workers: int,
        lost_after_seconds: float = beats.LOST_SECONDS,
        now: Callable[[], float] = time.monotonic,
        allocator: SharedAllocator | None = None,
        pool: Executor | None = None,
    ) -> None:
        self._instance = instance
        self._home = Path(instance.root_directory)
        self._wake, self._end_cancelled = wake, end_cancelled
        self._check_seconds = min(CHECK_SECONDS, lost_after_seconds / 3)
        self._max_workers = max_workers
        self._now = now
        self.allocator = allocator or SharedAllocator(self._home)
        self._records = Records(parked(self._home), parse_parked)
        self._answers = Records(answers(self._home), parse_answer)
        self._followed: dict[str, Followed] = {}
        self._looks: dict[str, Future[bool]] = {}
        self._ready: set[str] = set()
        """Runs that need a worker; they are not looked at again until one was started for them."""
        self._woken: dict[str, Worker] = {}
        self._pool = pool or ThreadPoolExecutor(THREADS, thread_name_prefix="follow")
        self._checked = self._last_parked = now()

    def turn(self) -> None:
        """Takes notice of runs that were parked or have a worker again, and of everything that happened to them."""
        self.allocator.turn()
        for run_id in self._records.refresh():
            self._notice(run_id)
        self._answers.refresh()
        now = self._now()
        if now - self._checked >= self._check_seconds:
            self._checked = now
            self._check()
        asleep = [run_id for run_id in self._followed if run_id not in self._woken and run_id not in self._ready]
        self._ready.update(run_id for run_id in asleep if self._needs_worker(run_id, self._followed[run_id], now))
        if self._ready and len(self._woken) < self._max_workers:
            # In the order of the line, because not all can be woken at once.
            for run_id in sorted(self._ready, key=lambda run_id: self._records.items[run_id].ticket):
                if len(self._woken) < self._max_workers:
                    self._start(run_id)
        self._see_to_woken(now)
        if self._records.items:
            self._last_parked = now

    @property
    def is_idle(self) -> bool:
        """Whether no run has been parked for a while."""
        return self._now() - self._last_parked > IDLE_SECONDS

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.allocator.close()

    def _notice(self, run_id: str) -> None:
        record = self._records.items.get(run_id)
        self._woken.pop(run_id, None)
        self._ready.discard(run_id)
        self._looks.pop(run_id, None)
        self._followed.pop(run_id, None)
        if record is None:
            return
        # What is wrong with one run must not keep the others from being followed; `_check` tries again.
        try:
            run = self._instance.get_run_by_id(run_id)
            if _is_ours(run):
                self._followed[run_id] = self._follow(run, record)
                beats.beat_for(self._instance, [run_id])
            else:
                self._leave(run_id, run)
        except Exception:
            log.exception("run %s cannot be followed now", run_id)

    def _follow(self, run: dg.DagsterRun, record: Parked) -> Followed:
        if record.job is None:
            return FollowedWait(self._instance, run, record, self._answers.items)
        return FollowedJob(self._instance, run, record, self._now)

    def _needs_worker(self, run_id: str, one: Followed, now: float) -> bool:
        """Lets a thread look at the store or database, when it is time to; what the last look found."""
        look = self._looks.get(run_id)
        if look is None:
            if one.is_due(now):
                self._looks[run_id] = self._pool.submit(one.look)
            return False
        if not look.done():
            return False
        del self._looks[run_id]
        if (error := look.exception()) is not None:
            log.warning("run %s: %s", run_id, error)
            return False
        return look.result()

    def _start(self, run_id: str) -> None:
        self._ready.discard(run_id)
        try:
            run = self._instance.get_run_by_id(run_id)
            if _is_ours(run):
                self._woken[run_id] = self._wake(run)
            else:
                self._leave(run_id, run)
        except Exception:
            log.exception("run %s cannot be woken now", run_id)
            self._followed[run_id].rest(self._now())

    def _see_to_woken(self, now: float) -> None:
        """A worker that died before it had taken its run over is replaced."""
        for run_id in [run_id for run_id, worker in self._woken.items() if not processes.is_alive(worker)]:
            del self._woken[run_id]
            if one := self._followed.get(run_id):
                one.rest(now)

    def _check(self) -> None:
        """Shows the daemons that the runs are followed, and leaves those that have ended or were taken over."""
        for run_id in self._records.items.keys() - self._followed.keys():
            self._notice(run_id)
        if not self._followed:
            return
        runs = {run.run_id: run for run in self._instance.get_runs(dg.RunsFilter(run_ids=list(self._followed)))}
        ours = [run_id for run_id in self._followed if _is_ours(runs.get(run_id))]
        for run_id in ours:
            show_alive(self._home, run_id)
        beats.beat_for(self._instance, ours)
        for run_id in self._followed.keys() - set(ours) - self._woken.keys():
            try:
                self._leave(run_id, runs.get(run_id))
            except Exception:
                log.exception("run %s cannot be ended now", run_id)

    def _leave(self, run_id: str, run: dg.DagsterRun | None) -> None:
        """The run is no longer parked. A terminal on another machine may have cancelled it, which only we can end."""
        if run is not None and run.status == dg.DagsterRunStatus.CANCELING and not _is_taken(run):
            self._end_cancelled(run_id)
        elif run is None or run.is_finished:
            beats.forget(self._instance, run_id)
        unpark(self._home, run_id)


def _is_ours(run: dg.DagsterRun | None) -> TypeGuard[dg.DagsterRun]:
    """Whether the run is in progress, and no worker on another machine executes it."""
    return run is not None and run.status == dg.DagsterRunStatus.STARTED and not _is_taken(run)


def _is_taken(run: dg.DagsterRun) -> bool:
    worker = worker_of(run.tags)
    return worker is not None and not is_here(worker)


def main() -> int:
    """Follows until no run is parked anymore."""
    from aquarat_pipeline.runs.launcher import GpuRunLauncher

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    home = dagster_home()
    lock = int(os.environ.pop(LOCK))
    os.set_inheritable(lock, False)
    with open_instance() as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, GpuRunLauncher), "dagster.yaml has another run launcher"
        follower = Follower(
            instance,
            launcher.wake,
            launcher.end_cancelled,
            max_workers=launcher.max_workers,
            lost_after_seconds=launcher.lost_after_seconds,
        )
        log.info("process %d follows parked runs", os.getpid())
        touched = 0.0
        while not follower.is_idle:
            if time.monotonic() - touched >= CHECK_SECONDS:
                touched = time.monotonic()
                os.utime(lock_of(home))
            follower.turn()
            time.sleep(TURN_SECONDS)
        log.info("no run is parked: this process ends")
        follower.close()
        # Before anything that may take its time: a run that is parked now gets the next follower.
        os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
