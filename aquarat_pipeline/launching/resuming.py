"""Whether a run whose worker died is taken up again: not after a day, and not where a newer run has taken its place."""

from __future__ import annotations

import time
from contextlib import suppress

import dagster as dg

from aquarat_pipeline._compat import IN_PROGRESS_RUN_STATUSES
from aquarat_pipeline.launching.tags import JOB_TAG

RESUME_WITHIN_HOURS = 24.0


def why_not(instance: dg.DagsterInstance, run: dg.DagsterRun, within_hours: float) -> str | None:
    """Why the run stays dead, as a sentence that says how to run it again; None if it is taken up."""
    last = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    silent = (time.time() - last[0].timestamp) / 3600 if last else 0.0
    again = f"To make it now, run it again: aquarat launch {' '.join(sorted(_left(instance, run))) or 'ASSET'}"
    if silent > within_hours:
        return (
            f"its worker died, and it has said nothing for {silent:.0f} h: after {within_hours:.0f} h "
            f"(resume_within_hours in dagster.yaml) no run is resumed without being asked. {again}"
        )
    if newer := _newer(instance, run):
        return f"its worker died, and {newer}: an older run does not replace what a newer one makes. {again}"
    return None


def leave_dead(instance: dg.DagsterInstance, run: dg.DagsterRun, why: str) -> None:
    """Fails the run, and ends the job that it may have left."""
    if JOB_TAG in run.tags:
        # Imported here: every process of Dagster imports the launcher, and few of them touch the store.
        from aquarat_pipeline.launching.attempts import cancel_job

        with suppress(ValueError):
            cancel_job(run.tags[JOB_TAG], "its run is not resumed")
    instance.report_run_failed(run, f"Not resumed: {why}")


def _planned(instance: dg.DagsterInstance, run_id: str) -> set[dg.AssetKey]:
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    return {e.dagster_event.asset_key for e in events if e.dagster_event and e.dagster_event.asset_key}


def _left(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[str]:
    """Names of the assets that the run has still to make."""
    made = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    done = {e.dagster_event.asset_key for e in made if e.dagster_event}
    return {key.to_user_string() for key in _planned(instance, run.run_id) - done}


def _newer(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """Which later run has made, or is making, something that this one has still to make."""
    record = instance.get_run_record_by_id(run.run_id)
    left = _left(instance, run)
    if record is None or not left:
        return None
    began = record.create_timestamp.timestamp()
    for name in sorted(left):
        event = instance.get_latest_materialization_event(dg.AssetKey.from_user_string(name))
        if event and event.run_id != run.run_id and event.timestamp > began:
            return f"run {event.run_id[:8]} has materialized {name} since"
    others = instance.get_run_records(
        dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES, created_after=record.create_timestamp)
    )
    for other in others:
        making = {key.to_user_string() for key in _planned(instance, other.dagster_run.run_id)} & left
        if making and other.dagster_run.run_id != run.run_id:
            return f"run {other.dagster_run.run_id[:8]}, which is newer, is making {', '.join(sorted(making))}"
    return None
