"""The checkpoints, each trained from the one before under torchrun."""

import dagster as dg

from aquarat_core.config import Profile
from aquarat_pipeline.assets.stage import stage_asset

CHECKPOINTS = ("base_checkpoint", "mid_checkpoint", "sft_checkpoint", "rl_checkpoint")


def training_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """Pretraining, mid-training, supervised fine-tuning and reinforcement learning."""
    return [stage_asset(profile, name, group="training", kinds={"torch", "wandb"}) for name in CHECKPOINTS]
