"""Materializes assets in this process, for `./run demo` and `aquarat materialize`.

The terminal only shows bars; output of Dagster and the stages goes to a log file. Assets that are fresh are left as
they are. The run appears under its job in the UI, and a daemon continues it if this process is killed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from aquarat_core.errors import UserError
from aquarat_pipeline.home import dagster_home

if TYPE_CHECKING:
    import dagster as dg

    from aquarat_core.artifacts import Artifact
    from aquarat_core.config import Profile
    from aquarat_pipeline.assets.history import Fresh
    from aquarat_pipeline.experiments import Experiment


class RunFailedError(RuntimeError):
    """The run was not completed; the message is the failed step's own."""


class RunInterruptedError(RunFailedError):
    """The run was cancelled; the message says what is kept."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """The user's own streams, saved while those of the process go to the log file."""

    out: TextIO
    err: TextIO
    log: Path

    def say(self, text: str) -> None:
        """Prints a line for the user between the bars."""
        print(text, file=self.err, flush=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Every requested asset, made or fresh, in the order of the chain, by its stage."""

    experiment: Experiment
    artifacts: dict[str, Artifact]
    seconds: dict[str, float]
    """Seconds that each step that made an asset took."""
    fresh: dict[str, Fresh]


@contextmanager
def terminal(name: str) -> Generator[Terminal]:
    """Saves the user's streams and redirects descriptors 1 and 2 to a log file in DAGSTER_HOME. Raises `HomeError`."""
    os.environ.setdefault("AQUARAT_PROGRESS", "bars")
    # When loaded, it saves a descriptor of the terminal for the bars.
    import_module("aquarat_pipeline.jobs.progress")
    logs = dagster_home() / "logs"
    logs.mkdir(exist_ok=True)
    path = logs / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with os.fdopen(os.dup(1), "w") as out, os.fdopen(os.dup(2), "w") as err, path.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield Terminal(out, err, path)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)


def beside(user: Terminal, profile: Profile) -> Experiment:
    """The experiment in which a profile's chain does not replace another profile's: the main experiment if it is unused
    or this profile's, otherwise the one named after the profile, created if necessary.

    Raises `ExperimentError` if that name belongs to another profile.
    """
    from aquarat_core.artifacts import ArtifactError, ArtifactStore, adoption
    from aquarat_core.settings import store_uri
    from aquarat_core.stages.registry import STAGES
    from aquarat_pipeline import experiments

    store = ArtifactStore.open(store_uri())
    others: set[str] = set()
    for asset in STAGES:
        with suppress(ArtifactError):
            latest = store.latest(asset)
            others |= {latest.manifest.profile} - {profile.name, adoption.PROFILE} if latest else set()
    if not others:
        return experiments.Experiment(profile)
    found = experiments.named_after(profile)
    user.say(
        f"The main assets are those of profile {', '.join(sorted(others))}: this chain is made as experiment "
        f"{found.name}, with assets such as {found.ref('rl_checkpoint')}."
    )
    return found


def materialize(
    user: Terminal,
    instance: dg.DagsterInstance,
    assets: Sequence[str],
    *,
    with_parents: bool = False,
    again: bool = False,
    job: str | None = None,
    tags: Mapping[str, str] | None = None,
    fields: Sequence[str] = (),
) -> Outcome:
    """Makes the assets of one experiment, except those that are fresh, unless `again`.

    `fields` are those with other values in this run, such as `rl_checkpoint.steps=20`.

    Raises `RunFailedError`, and `UserError` for problems that the user can fix before anything starts.
    """
    from aquarat_core.artifacts import ArtifactStore
    from aquarat_core.settings import store_uri
    from aquarat_core.stages.registry import STAGES
    from aquarat_pipeline.events import latest_materialization, manifest_of
    from aquarat_pipeline.runs.executor import skip_checks
    from aquarat_pipeline.runs.planning import planned
    from aquarat_pipeline.runs.submit import create_run

    plan = planned(instance, assets, with_parents=with_parents, again=again, fields=fields)
    experiment, kept, wanted = plan.experiment, plan.kept, plan.wanted
    store = ArtifactStore.open(store_uri())
    _say_fresh(user, kept)
    made: dict[str, Artifact] = {}
    seconds: dict[str, float] = {}
    if wanted:
        user.say("starting the run" if len(wanted) == 1 else f"starting the run of {len(wanted)} stages")
        checked: list[str] = []

        def say(line: str) -> None:
            checked.append(line)
            user.say(line)

        run = create_run(instance, [*map(experiment.ref, wanted)], job=job, tags=tags, fields=plan.fields, say=say)
        skip_checks(run.run_id, checked)
        _execute(instance, run, len(kept), len(plan.names))
        for name in wanted:
            event = latest_materialization(instance, experiment.key(name))
            sha256 = manifest_of(event) if event else None
            if sha256 is None:
                raise RuntimeError(f"run {run.run_id} succeeded, but {experiment.ref(name)} names no manifest")
            made[name] = store.get(sha256)
        steps = {experiment.step(name): name for name in wanted}
        stats = instance.get_run_step_stats(run.run_id, list(steps))
        seconds = {steps[s.step_key]: (s.end_time or 0.0) - (s.start_time or 0.0) for s in stats}
    found = {**{name: held.artifact for name, held in kept.items()}, **made}
    return Outcome(experiment, {name: found[name] for name in STAGES if name in found}, seconds, kept)


def _say_fresh(user: Terminal, kept: dict[str, Fresh]) -> None:
    from aquarat_core.durations import ago

    for name, held in kept.items():
        source = held.adopted
        what = f"adopted from {source.asset} {source.manifest_sha256[:12]}" if source else "fresh: made"
        user.say(f"{name:<17} {what} {ago(held.made)}{', kept until --again' if source else ''}")


def _execute(instance: dg.DagsterInstance, run: dg.DagsterRun, kept: int, total: int) -> None:
    """Executes the run and raises `RunFailedError` unless everything succeeded."""
    from aquarat_pipeline._compat import execute_run
    from aquarat_pipeline.runs.lines import failed_check, is_blocked
    from aquarat_pipeline.runs.submit import definitions

    result = execute_run(definitions().get_reconstructable_job(run.job_name), run, instance)
    run = result.dagster_run
    if run.status.value == "CANCELED":
        made = len(result.get_asset_materialization_events()) + kept
        raise RunInterruptedError(f"interrupted: {made} of {total} assets are made and kept. {_left(run)}")
    for failed in (e.step_failure_data for e in result.get_step_failure_events() if not is_blocked(e)):
        said = failed.user_failure_data and failed.user_failure_data.description
        raise RunFailedError(said or (failed.error.message.strip() if failed.error else "a step failed"))
    for said in filter(None, map(failed_check, result.get_asset_check_evaluations())):
        raise RunFailedError(said)
    if not result.success:
        error = result.get_run_failure_event().job_failure_data.error
        raise RunFailedError(_message(error) if error else "the run was stopped")


def _left(run: dg.DagsterRun) -> str:
    from aquarat_pipeline.jobs.attempts import job_at
    from aquarat_pipeline.jobs.outcome import saved_state
    from aquarat_pipeline.tags import JOB_TAG

    with suppress(UserError):
        if job := job_at(run.tags[JOB_TAG]) if JOB_TAG in run.tags else None:
            return saved_state(job)
    return "Run it again to continue."


def _message(error: Any) -> str:
    """An exception's own message, which Dagster stores after the name of its class."""
    head, colon, text = error.message.strip().partition(": ")
    return text if colon and error.cls_name and head.endswith(error.cls_name) else error.message.strip()
