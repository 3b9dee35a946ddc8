"""Decides whether a run whose worker died is resumed: not after a day, nor if a newer run has taken its place.

The newest requested run wins. Otherwise the first daemon after several killed commands would resume all of them at
once, and the oldest could finish last. A run whose death is noticed at once continues beside newer runs, as if its
worker had survived; it is only stopped by results of a newer run.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import dagster as dg

from aquarat_core.errors import UserError
from aquarat_pipeline._compat import IN_PROGRESS_RUN_STATUSES
from aquarat_pipeline.assets.publishing import overtaken_by
from aquarat_pipeline.beats import last_seen
from aquarat_pipeline.tags import JOB_TAG
from aquarat_pipeline.workers import last_alive

RESUME_WITHIN_HOURS = 24.0
NOTICED_WITHIN_SECONDS = 600.0
"""Seconds after a worker's death within which its run still continues beside newer runs of the same assets."""


def why_not(instance: dg.DagsterInstance, run: dg.DagsterRun, within_hours: float) -> str | None:
    """A sentence that says why the run is not resumed and how to run it again; None if it is resumed."""
    silent = time.time() - _last_sign(instance, run)
    left = _left(instance, run)
    again = f"To make it now, run it again: aquarat launch {' '.join(sorted(left)) or 'ASSET'}"
    if silent > within_hours * 3600:
        return (
            f"its worker died, and it has shown no sign of life for {silent / 3600:.0f} h: after {within_hours:.0f} h "
            f"(resume_within_hours in dagster.yaml) no run is resumed automatically. {again}"
        )
    newer = overtaken_by(instance, run.run_id, left)
    if newer is None and silent > NOTICED_WITHIN_SECONDS:
        newer = _made_by(instance, run, left)
    if newer:
        return f"its worker died, and {newer}: an older run does not replace the results of a newer one. {again}"
    return None


def leave_dead(instance: dg.DagsterInstance, run: dg.DagsterRun, why: str) -> None:
    """Marks the run as failed, and ends the job that it may have left."""
    if JOB_TAG in run.tags:
        # Imported here, because every Dagster process imports the launcher, and few of them access the store.
        from aquarat_pipeline.jobs.attempts import cancel_job

        with suppress(UserError):
            cancel_job(run.tags[JOB_TAG], "its run is not resumed")
    instance.report_run_failed(run, f"Not resumed: {why}")


def _last_sign(instance: dg.DagsterInstance, run: dg.DagsterRun) -> float:
    """When the run's worker was last known to be alive; a step that waits for a host logs nothing for days."""
    said = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    here, elsewhere = last_alive(Path(instance.root_directory), run.run_id), last_seen(instance, run.run_id)
    return max(said[0].timestamp if said else 0.0, here, elsewhere)


def _made_by(instance: dg.DagsterInstance, run: dg.DagsterRun, left: set[str]) -> str | None:
    """The newer run that is making assets that this one still has to make, as a clause; None if there is none."""
    record = instance.get_run_record_by_id(run.run_id)
    if record is None:
        return None
    unfinished = dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES, created_after=record.create_timestamp)
    for other in instance.get_run_records(unfinished):
        making = planned(instance, other.dagster_run.run_id) & left
        if making and other.dagster_run.run_id != run.run_id:
            return f"run {other.dagster_run.run_id[:8]}, which is newer, is making {', '.join(sorted(making))}"
    return None


def planned(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    """Names of the assets that the run was created to make."""
    return _assets(instance, run_id, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)


def _left(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[str]:
    """Names of the assets that the run still has to make."""
    made = _assets(instance, run.run_id, dg.DagsterEventType.ASSET_MATERIALIZATION)
    return planned(instance, run.run_id) - made


def _assets(instance: dg.DagsterInstance, run_id: str, event: dg.DagsterEventType) -> set[str]:
    events = [entry.dagster_event for entry in instance.all_logs(run_id, of_type=event)]
    return {event.asset_key.to_user_string() for event in events if event and event.asset_key}
