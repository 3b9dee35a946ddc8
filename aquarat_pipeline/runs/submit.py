"""Queues a run on the running Dagster instance, watches it and cancels it, without the web UI.

`dagster asset materialize` and `dg launch` both execute in their own terminal. This queues the run instead: the daemon
starts it through the run launcher, and it outlives the shell.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from aquarat_core.config.overrides import overrides
from aquarat_core.errors import UserError
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline import experiments
from aquarat_pipeline._compat import NOT_FINISHED_STATUSES, ReconstructableRepository, coerce_valid_log_level
from aquarat_pipeline.assets import reuse
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.assets.provenance import check_given
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.jobs.attempts import cancel_job
from aquarat_pipeline.jobs.telling import PROGRESS
from aquarat_pipeline.runs import lines, readiness
from aquarat_pipeline.runs.origin import MODULE, WORKSPACE, job_origin
from aquarat_pipeline.runs.profiles import remember, share
from aquarat_pipeline.tags import JOB_TAG, SET_TAG

FINISH_SECONDS = 40.0
MIN_ID = 4
"""Characters of a run's id that are enough to name it, if no other begins like this."""
SHOWN_EVENTS = {
    dg.DagsterEventType.RUN_START,
    dg.DagsterEventType.RUN_SUCCESS,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_UP_FOR_RETRY,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
"""The events that `watch` shows, in addition to those about workers."""
_LIKE_THE_TERMINAL = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.STEP_FAILURE,
}


class LaunchError(UserError):
    """A run that cannot be submitted, found or cancelled; the message says why."""


def submit(instance: dg.DagsterInstance, assets: list[str], **how: Any) -> dg.DagsterRun:
    """Queues one run, made by `create_run`. Raises `LaunchError`."""
    run = create_run(instance, assets, **how)
    # The run queue needs no workspace: the daemon launches the run with its own.
    return instance.submit_run(run.run_id, workspace=None)  # pyright: ignore[reportArgumentType]


def create_run(
    instance: dg.DagsterInstance,
    assets: list[str],
    *,
    with_parents: bool = False,
    job: str | None = None,
    tags: Mapping[str, str] | None = None,
    fields: Sequence[str] = (),
    workspace: Path = WORKSPACE,
    say: Callable[[str], None] | None = None,
) -> dg.DagsterRun:
    """A run, not yet started, of `assets`, and with `with_parents` of all their inputs; under `job`, or none.

    `fields` are those with other values in this run, such as `rl_checkpoint.steps=20`. `say` is called with the run's
    requirements, and with the nearest earlier artifact of each stage. Raises `LaunchError`, `ConfigError` for a field
    that cannot have its value, and the `UserError` of `readiness.check` or `check_given` for a run that could not be
    completed.
    """
    repository = definitions()
    definition = repository.get_definition()
    graph = definition.asset_graph
    known = {key.to_user_string(): key for key in graph.executable_asset_keys}
    experiment = experiments.of_run(experiments.experiment_of(name) for name in assets)
    if unknown := [name for name in assets if name not in known]:
        raise LaunchError(f"there is no asset {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    selection = dg.AssetSelection.assets(*(known[name] for name in assets))
    chosen = selection.upstream() if with_parents else selection
    keys = chosen.resolve(graph)  # pyright: ignore[reportUnknownMemberType]  # a generic class without its argument
    whole = definition.get_job(job) if job else definition.get_implicit_job_def_for_assets(keys)
    assert whole is not None, "no two assets of this project have different partitions"
    steps = [key.to_python_identifier() for key in keys]
    run_config = config_of(experiment, fields, steps)
    asked = Plan.of(steps, experiment, tags or {}, run_config)
    home = Path(instance.root_directory)
    told = say or _to_nobody
    readiness.check(home, asked, told)
    check_given(instance, asked, whole, told)
    share(instance, experiment.profile)
    if say is not None:  # it takes a while to find out
        for line in reuse.lines(instance, asked):
            say(line)
    return instance.create_run_for_job(
        job_def=whole,  # reduced to the selection there; the UI compares with the whole job
        run_config=run_config,
        asset_selection=frozenset(keys),
        tags={
            **remember(home, experiment.profile),
            **experiment.tags,
            **({SET_TAG: ", ".join(fields)} if fields else {}),
            **(tags or {}),
        },
        remote_job_origin=job_origin(whole.name, definition.name, workspace),
        job_code_origin=repository.get_reconstructable_job(whole.name).get_python_origin(),
    )


def _to_nobody(line: str) -> None:
    pass


def config_of(experiment: Experiment, fields: Sequence[str], steps: Iterable[str]) -> dict[str, Any]:
    """The run config of a run of those steps in which fields have other values than in the experiment's profile.

    Raises `ConfigError` for a field that cannot have its value, and `LaunchError` for one that no step reads.
    """
    steps, ops = list(steps), dict[str, Any]()
    for section, values in overrides(experiment.profile, fields).items():
        read = [stage.name for stage in STAGES.values() if stage.section == section]
        made = [step for name in read if (step := experiment.step(name)) in steps]
        if not made:
            names = " or ".join(map(experiment.ref, read))
            raise LaunchError(
                f"{section} is set, but the run does not make {names}: name it too, or add --with-parents if another "
                "asset of the run is made from it"
            )
        ops |= {step: {"config": values} for step in made}
    return {"ops": ops} if ops else {}


def definitions() -> ReconstructableRepository:
    """The code location, in a form that any process can load."""
    module = os.environ.get("DAGSTER_MODULE_NAME", MODULE)
    return ReconstructableRepository.for_module(module, "defs", str(REPO_ROOT))


def find_run(instance: dg.DagsterInstance, start: str) -> dg.DagsterRun:
    """The run whose id starts with `start`. Raises `LaunchError` if there is none, or more than one."""
    if run := instance.get_run_by_id(start):
        return run
    if len(start) < MIN_ID:
        raise LaunchError(f"{start!r} is too short for a run: give at least {MIN_ID} characters of its id")
    found = [run for run in instance.get_runs(limit=1000) if run.run_id.startswith(start)]
    if len(found) != 1:
        count = "more than one run" if found else "no run"
        raise LaunchError(f"{count} of {instance.root_directory} starts with {start!r}")
    return found[0]


def run_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    """The run's current state in Dagster. Raises `LaunchError` if it was deleted."""
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise LaunchError(f"run {run_id} is no longer in {instance.root_directory}: it was deleted")
    return run


def cancel(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    """Cancels the run and waits until it has ended; returns its final status.

    If the run has ended but its job has not (for example because its workers died too often), ends the job.
    """
    if run.is_finished:
        if JOB_TAG in run.tags and cancel_job(run.tags[JOB_TAG], "its run has ended"):
            return run.status
        raise LaunchError(f"run {run.run_id} has already ended: {run.status.value}")
    coordinator = instance.run_coordinator
    coordinator.cancel_run(run.run_id)
    deadline = time.monotonic() + FINISH_SECONDS
    while not run.is_finished and time.monotonic() < deadline:
        time.sleep(0.2)
        run = run_of(instance, run.run_id)
    instance.run_launcher.join()
    return run_of(instance, run.run_id).status


def cancel_all(instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun]) -> None:
    """Cancels unfinished runs together, and waits until they have ended.

    Those that wait in the queue first, because a place that becomes free would start one of them. Runs that were
    created but not queued must have lost the process that created them.
    """
    for run in sorted(runs, key=lambda run: run.status != dg.DagsterRunStatus.QUEUED):
        if run.status == dg.DagsterRunStatus.NOT_STARTED:
            instance.report_run_canceled(run, "Cancelled; it had not been started.")
        else:
            instance.run_coordinator.cancel_run(run.run_id)
    left, deadline = [run.run_id for run in runs], time.monotonic() + FINISH_SECONDS
    while left and time.monotonic() < deadline:
        left = list(instance.get_run_ids(dg.RunsFilter(run_ids=left, statuses=NOT_FINISHED_STATUSES)))
        time.sleep(0.2)
    instance.run_launcher.join()


def watch(instance: dg.DagsterInstance, run_id: str) -> Iterator[str]:
    """The run's log line by line, from its start, until it has ended."""
    cursor = None
    while True:
        # Read before the events, so that the last events of a finished run are included.
        finished = run_of(instance, run_id).is_finished
        page = instance.get_records_for_run(run_id, cursor=cursor)
        cursor = page.cursor
        for record in page.records:
            if line := _line(record.event_log_entry):
                yield line
        if not page.has_more:
            if finished:
                return
            time.sleep(0.5)


def _line(entry: dg.EventLogEntry) -> str | None:
    clock = time.strftime("%H:%M:%S", time.localtime(entry.timestamp))
    step = f"{entry.step_key}: " if entry.step_key else ""
    event, level = entry.dagster_event, coerce_valid_log_level(entry.level)
    if event is None:
        text = lines.line(None, entry.user_message, level)
        return text and f"{clock} {lines.of_step(entry.step_key, text)}"
    if event.is_engine_event and (event.message or "").startswith(PROGRESS):
        return f"{clock} {step}{(event.message or '').removeprefix(PROGRESS)}"
    if event.event_type not in SHOWN_EVENTS and not (event.is_engine_event and "worker" in (event.message or "")):
        return None
    if event.event_type in _LIKE_THE_TERMINAL:
        text = lines.line(event, event.message or "", level)
        return text and f"{clock} {lines.of_step(entry.step_key, text)}"
    return f"{clock} {step}{event.message}"
