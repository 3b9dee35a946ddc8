"""The real assets and checks with toy stages behind them, none under torchrun; a code location of its own for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import dagster as dg

from aquarat_core.config import load_profile
from aquarat_core.stages.registry import CHECKPOINTS, STAGES
from aquarat_pipeline.assets.stage import stage_assets
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.jobs.client import TorchrunPipesClient
from aquarat_pipeline.resources.store import StoreResource
from aquarat_pipeline.runs.executor import resuming_executor
from aquarat_pipeline.runs.lines import terminal_logger
from aquarat_pipeline.schedules import pipeline, reevaluation, weekly
from aquarat_pipeline.sensors.checkpoints import new_checkpoints
from aquarat_pipeline.sensors.notifications import notify_runs

TOY_STAGE = (str(Path(__file__).with_name("toy_stage.py")),)


def build(
    training: Callable[[Experiment], list[dg.AssetsDefinition]] | None = None, *, named: Sequence[Experiment] = ()
) -> dg.Definitions:
    """Profile `demo` and `named` experiments, the store of the environment.

    `training` makes the checkpoints where they need torchrun.
    """
    plain = {name: dataclasses.replace(stage, distributed=False) for name, stage in STAGES.items()}
    experiments = (Experiment(load_profile("demo")), *named)
    names = [name for name in experiments[0].stages if not (training and name in CHECKPOINTS)]
    with mock.patch("aquarat_pipeline.assets.stage.STAGES", plain):
        assets = [asset for experiment in experiments for asset in stage_assets(experiment, names)]
    assets += [asset for experiment in experiments for asset in training(experiment)] if training else []
    again = [(experiment, reevaluation(experiment)) for experiment in experiments]
    with (
        mock.patch("aquarat_pipeline.sensors.checkpoints.SECONDS", 1),
        mock.patch("aquarat_pipeline.sensors.notifications.SECONDS", 1),
    ):
        sensors = [
            *(new_checkpoints(experiment, job) for experiment, job in again),
            notify_runs(),
        ]
    return dg.Definitions(
        assets=assets,
        jobs=[pipeline(experiments[0]), *(job for _, job in again)],
        schedules=[weekly(experiment, job) for experiment, job in again],
        sensors=sensors,
        resources={
            "store": StoreResource.from_environment(),
            "torchrun": TorchrunPipesClient(TOY_STAGE, grace_seconds=2),
        },
        executor=resuming_executor,
        loggers={"console": terminal_logger},
    )


defs = build()
