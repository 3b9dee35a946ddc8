"""The code location: everything that Dagster serves, assembled once for each experiment."""

import os
from pathlib import Path

import dagster as dg

from aquarat_core.artifacts.lineage import format_profile
from aquarat_pipeline.assets.stage import stage_assets
from aquarat_pipeline.experiments import Experiment, experiments
from aquarat_pipeline.jobs.client import TorchrunPipesClient
from aquarat_pipeline.resources.store import StoreResource
from aquarat_pipeline.runs.executor import resuming_executor
from aquarat_pipeline.runs.lines import terminal_logger
from aquarat_pipeline.schedules import by_profile, pipeline, reevaluation, weekly
from aquarat_pipeline.sensors.checkpoints import new_checkpoints
from aquarat_pipeline.sensors.notifications import notify_runs
from aquarat_pipeline.sensors.rentals import rented_hosts
from aquarat_pipeline.sensors.renting import keep_rentals
from aquarat_pipeline.upkeep import upkeep


def of(experiment: Experiment) -> dg.Definitions:
    """The assets, checks, jobs, the schedule and the sensor of one experiment."""
    again = reevaluation(experiment)
    return dg.Definitions(
        assets=stage_assets(experiment),
        jobs=[pipeline(experiment), again, *([] if experiment.name else [by_profile(experiment)])],
        schedules=[weekly(experiment, again)],
        sensors=[new_checkpoints(experiment, again)],
        metadata={
            f"profile of {experiment.name or 'the main experiment'}": format_profile(
                experiment.profile.name, experiment.profile.sha256
            )
        },
    )


_EXPERIMENTS = experiments()
defs = dg.Definitions.merge(
    *(of(experiment) for experiment in _EXPERIMENTS),
    upkeep(_EXPERIMENTS),
    rented_hosts(Path(os.environ["DAGSTER_HOME"]) if os.environ.get("DAGSTER_HOME") else None),
    dg.Definitions(
        sensors=[notify_runs(), keep_rentals()],
        resources={"store": StoreResource.from_environment(), "torchrun": TorchrunPipesClient()},
        executor=resuming_executor,
        loggers={"console": terminal_logger},
    ),
)
