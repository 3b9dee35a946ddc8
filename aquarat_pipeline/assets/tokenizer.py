"""The tokenizer."""

import dagster as dg

from aquarat_core.config import Profile
from aquarat_pipeline.assets.stage import stage_asset


def tokenizer_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """Byte-level BPE, trained in Rust."""
    return [stage_asset(profile, "tokenizer", group="tokenizer", kinds={"rust"})]
