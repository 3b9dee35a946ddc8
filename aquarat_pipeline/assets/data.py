"""The data sets."""

import dagster as dg

from aquarat_core.config import Profile
from aquarat_pipeline.assets.stage import stage_asset


def data_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """What everything else is made from: questions, conversations and plain text, the text as tokens too."""
    names = ("aqua_dataset", "chat_datasets", "pretrain_text")
    return [
        *(stage_asset(profile, name, group="data", kinds={"huggingface", "parquet"}) for name in names),
        stage_asset(profile, "pretrain_tokens", group="data", kinds={"numpy"}),
    ]
