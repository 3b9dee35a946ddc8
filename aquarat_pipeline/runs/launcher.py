"""The run launcher: starts a detached worker for every run, resumes dead ones, and cancels jobs before workers.

It keeps nothing in memory. Its information about a run comes from the run's tags, which the worker writes itself, so
that the daemon, the web server and the command line, each with its own launcher, agree. It does not reserve hosts:
Dagster calls `launch_run` in the daemon's loop, where a host that does not answer would delay every other run, and the
hosts would stay reserved while the run's earlier steps take hours. The step that trains takes its hosts and waits for
them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Self

import dagster as dg

from aquarat_core.agent import processes
from aquarat_core.errors import UserError
from aquarat_pipeline import beats
from aquarat_pipeline._compat import (
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    ExecuteRunArgs,
    JobPythonOrigin,
    LaunchRunContext,
    ResumeRunArgs,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from aquarat_pipeline.runs import resuming
from aquarat_pipeline.tags import EXPERIMENT_TAG, JOB_TAG, NEEDS_TAG, RANKS_TAG, WORKER_TAG
from aquarat_pipeline.workers import (
    LAUNCHED,
    PARK_AFTER,
    RUN_PROFILE,
    Worker,
    describe,
    is_executing,
    is_here,
    is_parked,
    last_alive,
    show_alive,
    unpark,
    worker_of,
)

CANCEL_SECONDS = 28.0
WOKEN_SECONDS = 10.0
"""A worker that was woken, and waits again, ends after this time, because its run waits long anyway."""
MAX_WORKERS = 8
TAIL_LINES = 40


class GpuRunLauncher(RunLauncher, ConfigurableClass):
    """Named in `dagster.yaml`; a dead run is resumed up to `resume_within_hours` after its last sign of life.

    A worker that has only waited for `park_after_seconds`, for hosts or for a job that runs, ends: its run is parked
    (0: never). The follower wakes parked runs, at most `max_workers` at once.
    A worker on another machine counts as dead when it has been silent in the database for `lost_after_seconds`.
    """

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        resume_within_hours: float = resuming.RESUME_WITHIN_HOURS,
        park_after_seconds: float = 0.0,
        max_workers: int = MAX_WORKERS,
        lost_after_seconds: float = beats.LOST_SECONDS,
    ) -> None:
        self._inst_data = inst_data
        self._resume_within_hours = resume_within_hours
        self._park_after = park_after_seconds
        self.max_workers = max_workers
        self.lost_after_seconds = lost_after_seconds
        self._silence = beats.Silence(lost_after_seconds)
        self._finishing: list[Thread] = []
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {
            "resume_within_hours": dg.Field(float, is_required=False, default_value=resuming.RESUME_WITHIN_HOURS),
            "park_after_seconds": dg.Field(float, is_required=False, default_value=0.0),
            "max_workers": dg.Field(int, is_required=False, default_value=MAX_WORKERS),
            "lost_after_seconds": dg.Field(float, is_required=False, default_value=beats.LOST_SECONDS),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        args = ExecuteRunArgs(
            job_origin=_origin(run),
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        if needs := self._needs(run):
            self._instance.add_run_tags(run.run_id, {NEEDS_TAG: needs})
        self._start_worker(run, args.get_command_args(), "Started")

    @property
    def supports_resume_run(self) -> bool:
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        run = context.dagster_run
        args = ResumeRunArgs(
            job_origin=_origin(run),
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        self._start_worker(run, args.get_command_args(), f"Resumed (attempt {context.resume_attempt_number}) with")

    def wake(self, run: dg.DagsterRun) -> Worker:
        """Starts a worker for a parked run, which is no resumption after a death; returns that process."""
        args = ResumeRunArgs(
            job_origin=_origin(run),
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        after = min(self._park_after, WOKEN_SECONDS)
        return self._start_worker(run, args.get_command_args(), "The parked run goes on with", after)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """RUNNING for a run without a worker of ours, because we cannot check it."""
        worker = worker_of(run.tags)
        if worker is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its worker was not started by this launcher")
        if not is_here(worker):
            return self._health_elsewhere(run, worker)
        if processes.is_alive(worker):
            return CheckRunHealthResult(WorkerStatus.RUNNING, _name(worker), run_worker_id=str(worker["pid"]))
        if is_parked(Path(self._instance.root_directory), run.run_id) and not self._left_alone(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "it is parked, and followed")
        return self._dead(run, worker, "is gone")

    def _health_elsewhere(self, run: dg.DagsterRun, worker: Worker) -> CheckRunHealthResult:
        """By its heartbeat in the database; RUNNING for as long as its silence has not been watched long enough."""
        silent = 0.0
        if beats.is_shared(self._instance):
            silent = self._silence.of(run.run_id, beats.last_beat(self._instance, run.run_id))
        if silent >= self._silence.lost_seconds:
            return self._dead(run, worker, f"has shown no sign of life for {silent:.0f} s")
        return CheckRunHealthResult(WorkerStatus.RUNNING, _name(worker), run_worker_id=str(worker["pid"]))

    def _dead(self, run: dg.DagsterRun, worker: Worker, sign: str) -> CheckRunHealthResult:
        if run.status == dg.DagsterRunStatus.STARTED:
            why = resuming.why_not(self._instance, run, self._resume_within_hours)
            if why:
                resuming.leave_dead(self._instance, run, why)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"{_name(worker)} {sign}", run_worker_id=str(worker["pid"]))

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        log = self._log(run.run_id)
        if not include_container_logs or not log.exists():
            return None
        with log.open(errors="replace") as f:
            return f"Last lines of {log}:\n{''.join(deque(f, maxlen=TAIL_LINES))}"

    def _left_alone(self, run: dg.DagsterRun) -> bool:
        """Sees that a parked run is followed; whether nobody followed it for so long that it is not to go on."""
        home = Path(self._instance.root_directory)
        if time.time() - last_alive(home, run.run_id) > resuming.NOTICED_WITHIN_SECONDS:
            if resuming.why_not(self._instance, run, self._resume_within_hours):
                unpark(home, run.run_id)
                return True
            show_alive(home, run.run_id)
        # Imported here, because every Dagster process imports this module, and few of them have parked runs.
        from aquarat_pipeline.runs import follower_start

        follower_start.start(home)
        return False

    def terminate(self, run_id: str) -> bool:
        """Cancels the job, then the worker. Returns at once; a thread makes sure that the run ends."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        _cancel_job(run)
        worker = worker_of(run.tags)
        if worker is None:
            return False
        if not is_here(worker):
            # It, or the follower, reads in the database that the run is cancelled; if both are dead, Dagster ends the
            # run a minute later.
            return beats.is_shared(self._instance)
        # Dagster marks a run as failed if its worker is interrupted, or finds it cancelled, before its first step.
        begun = is_executing(Path(self._instance.root_directory), run_id)
        self._interrupt(worker, signal.SIGINT if begun else signal.SIGKILL)
        finishing = Thread(target=self._finish, args=(run_id, worker), name=f"cancel {run_id}", daemon=True)
        finishing.start()
        self._finishing.append(finishing)
        return True

    def join(self, timeout: int = 30) -> None:
        """Waits for cancellations in progress."""
        deadline = time.monotonic() + timeout
        for thread in self._finishing:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start_worker(
        self, run: dg.DagsterRun, command: Sequence[str], how: str, park_after: float | None = None
    ) -> Worker:
        profile = self._profile(run)
        after = self._park_after if park_after is None else park_after
        log = self._log(run.run_id)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            # `dagster` may not be on the PATH of a daemon that was started by its full path.
            worker = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**os.environ, **profile, PARK_AFTER: f"{after:g}", LAUNCHED: run.run_id},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        tag = describe(worker.pid, "launcher")
        self._instance.add_run_tags(run.run_id, {WORKER_TAG: tag})
        self._instance.report_engine_event(f"{how} run worker {worker.pid}; its output is in {log}", run)
        return json.loads(tag)

    def _profile(self, run: dg.DagsterRun) -> dict[str, str]:
        """The environment in which a worker loads the profile with which the run started."""
        from aquarat_pipeline.runs import profiles  # few of Dagster's processes need it

        try:
            profiles.fetch(self._instance, run.tags)
            kept = profiles.recall(Path(self._instance.root_directory), run.tags)
        except profiles.ProfileMismatchError as e:
            self._instance.report_run_failed(run, str(e))
            raise
        if kept is None:
            return {}
        experiment = run.tags.get(EXPERIMENT_TAG)
        return {RUN_PROFILE: f"{experiment}={kept}"} if experiment else {"AQUARAT_PROFILE": str(kept)}

    def _needs(self, run: dg.DagsterRun) -> str | None:
        """The run's requirements for hosts, from the tags of its plan's steps: the maximum over the steps."""
        if run.execution_plan_snapshot_id is None:
            return None
        plan = self._instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
        wanted = [int(ranks) for step in plan.steps if (ranks := (step.tags or {}).get(RANKS_TAG))]
        return f"{max(wanted)} ranks for {len(wanted)} of {len(plan.steps)} steps" if wanted else None

    def _finish(self, run_id: str, worker: Worker) -> None:
        """Kills a worker that does not end the run in time; ends a run whose worker is dead."""
        deadline = time.monotonic() + CANCEL_SECONDS
        while processes.is_alive(worker) and time.monotonic() < deadline:
            time.sleep(0.2)
        self._interrupt(worker, signal.SIGKILL)
        self.end_cancelled(run_id)

    def end_cancelled(self, run_id: str) -> None:
        """Ends a cancelled run that has no worker."""
        unpark(Path(self._instance.root_directory), run_id)
        run = self._instance.get_run_by_id(run_id)
        if run and not run.is_finished:
            # The tag may name a later job than the one known when cancelling began.
            _cancel_job(run)
            _count_usage(self._instance, run)
            self._instance.report_run_canceled(run, "Cancelled; its worker was no longer running.")
        beats.forget(self._instance, run_id)

    @staticmethod
    def _interrupt(worker: Worker, how: signal.Signals) -> None:
        if processes.is_alive(worker):
            with suppress(ProcessLookupError):
                os.kill(worker["pid"], how)

    def _log(self, run_id: str) -> Path:
        return Path(self._instance.root_directory) / "aquarat" / "workers" / f"{run_id}.log"


def _name(worker: Worker) -> str:
    return f"pid {worker['pid']} on {worker['host']}"


def _origin(run: dg.DagsterRun) -> JobPythonOrigin:
    """The code that a worker loads. Raises Dagster's error for a run whose job only exists in one process."""
    if run.job_code_origin is None:
        raise dg.DagsterInvariantViolationError(
            f"run {run.run_id} was started from Python code, which no worker can load: run it again from there"
        )
    return run.job_code_origin


def _count_usage(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Records that the run uses no hosts anymore, which its worker can no longer do."""
    # Imported here for the same reason as in `_cancel_job`.
    from aquarat_pipeline.jobs.spending import tag_run
    from aquarat_pipeline.jobs.usage import UsageRecord, steps_with_uses

    # What it cost may not be counted, but it must end.
    with suppress(UserError, OSError):
        ended = [UsageRecord(instance, run.run_id, step, time.time).end() for step in steps_with_uses(run.tags)]
        if any(ended):
            tag_run(instance, run.run_id, time.time())


def _cancel_job(run: dg.DagsterRun) -> None:
    if JOB_TAG in run.tags:
        # Imported here, because every Dagster process imports this module, and few of them access the store.
        from aquarat_pipeline.jobs.attempts import cancel_job

        cancel_job(run.tags[JOB_TAG], "the run was cancelled")
