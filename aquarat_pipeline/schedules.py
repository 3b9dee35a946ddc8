"""Jobs, and the schedule of one of them."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from aquarat_core.stages.registry import STAGES
from aquarat_pipeline._compat import UnresolvedAssetJobDefinition as Job
from aquarat_pipeline.experiments import Experiment


def pipeline(experiment: Experiment) -> Job:
    """The job that makes all assets of an experiment."""
    return _job(experiment, "pipeline", experiment.stages, "The whole chain, from data to report.")


def reevaluation(experiment: Experiment) -> Job:
    """The job that makes the reports of an experiment."""
    reports = (stage.name for stage in STAGES.values() if stage.kind == "report")
    return _job(experiment, "reevaluation", reports, "Evaluates the latest checkpoints again; trains nothing.")


def weekly(experiment: Experiment, reevaluation: Job) -> dg.ScheduleDefinition:
    """The schedule that starts the job `reevaluation`."""
    return dg.ScheduleDefinition(
        name=experiment.local("weekly_reevaluation"),
        job=reevaluation,
        cron_schedule="0 5 * * 1",
        execution_timezone="UTC",
        description="Mondays at 05:00 UTC. Off until it is switched on in the UI.",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )


def _job(experiment: Experiment, name: str, assets: Iterable[str], description: str) -> Job:
    selection = dg.AssetSelection.assets(*(experiment.key(asset) for asset in assets))
    # One of its parameters is a generic class without its argument.
    return dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]
        experiment.local(name), selection, description=description
    )
