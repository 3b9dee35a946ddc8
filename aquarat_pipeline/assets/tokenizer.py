"""The tokenizer."""

import dagster as dg

from aquarat_pipeline.assets.stage import stage_asset
from aquarat_pipeline.experiments import Experiment


def tokenizer_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """Byte-level BPE, trained in Rust."""
    return [stage_asset(experiment, "tokenizer", group="tokenizer", kinds={"rust"})]
