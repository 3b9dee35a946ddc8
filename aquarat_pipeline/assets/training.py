"""The checkpoints, each trained from the one before under torchrun."""

import dagster as dg

from aquarat_pipeline.assets.stage import stage_asset
from aquarat_pipeline.experiments import Experiment

CHECKPOINTS = ("base_checkpoint", "mid_checkpoint", "sft_checkpoint", "rl_checkpoint")


def training_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """Pretraining, mid-training, supervised fine-tuning and reinforcement learning."""
    return [stage_asset(experiment, name, group="training", kinds={"torch", "wandb"}) for name in CHECKPOINTS]
