"""Jobs and when they run by themselves."""

from __future__ import annotations

from typing import Any

import dagster as dg

from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.experiments import Experiment


def pipeline(experiment: Experiment) -> Any:
    """The job that makes all assets of an experiment."""
    return dg.define_asset_job(
        experiment.local("pipeline"), _assets(experiment, STAGES), description="The whole chain, from data to report."
    )


def reevaluation(experiment: Experiment) -> Any:
    """The job that makes the reports of an experiment."""
    return dg.define_asset_job(
        experiment.local("reevaluation"),
        _assets(experiment, (stage.name for stage in STAGES.values() if stage.kind == "report")),
        description="Evaluates the latest checkpoints again; trains nothing.",
    )


def weekly(experiment: Experiment, reevaluation: Any) -> dg.ScheduleDefinition:
    """When the job `reevaluation` runs by itself."""
    return dg.ScheduleDefinition(
        name=experiment.local("weekly_reevaluation"),
        job=reevaluation,
        cron_schedule="0 5 * * 1",
        execution_timezone="UTC",
        description="Mondays at 05:00 UTC. Off until it is switched on in the UI.",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )


def _assets(experiment: Experiment, names: Any) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(experiment.key(name) for name in names))
