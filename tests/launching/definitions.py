"""Three of the real assets, the last two on GPU hosts, with the toy trainer behind them: a code location for tests."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from unittest import mock

import dagster as dg

from aquarat_core.config import load_profile
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.assets.stage import stage_asset
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.jobs.client import TorchrunPipesClient
from aquarat_pipeline.resources.store import StoreResource
from aquarat_pipeline.runs.executor import resuming_executor

HERE = Path(__file__).parent
INPUTS: dict[str, tuple[str, ...]] = {
    "aqua_dataset": (),
    "sft_checkpoint": ("aqua_dataset",),
    "rl_checkpoint": ("sft_checkpoint",),
}
stages = {
    name: dataclasses.replace(STAGES[name], inputs=inputs, group="toys", kinds=()) for name, inputs in INPUTS.items()
}

with mock.patch("aquarat_pipeline.assets.stage.STAGES", stages):
    profile = load_profile(os.environ.get("AQUARAT_PROFILE", str(HERE / "profile.yaml")))
    assets = [stage_asset(Experiment(profile), name) for name in stages]

defs = dg.Definitions(
    assets=assets,
    resources={
        "store": StoreResource.from_environment(),
        "torchrun": TorchrunPipesClient((str(HERE / "trainer.py"),), grace_seconds=2),
    },
    executor=resuming_executor,
)
