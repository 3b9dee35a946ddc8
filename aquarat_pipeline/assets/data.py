"""The data sets."""

import dagster as dg

from aquarat_core.config import Profile
from aquarat_pipeline.assets.stage import stage_asset

_KINDS = {"hub": "huggingface", "synthetic": "python"}
_NOTES = {"hub": "From the Hugging Face Hub.", "synthetic": "Generated here, not real data."}


def _source(profile: Profile, name: str) -> str:
    return getattr(profile, name).source


def _note(profile: Profile, name: str) -> str:
    return _NOTES[_source(profile, name)]


def data_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """What everything else is made from: questions, conversations and plain text, the text as tokens too."""
    names = ("aqua_dataset", "chat_datasets", "pretrain_text")
    return [
        *(
            stage_asset(
                profile,
                name,
                group="data",
                kinds={_KINDS[_source(profile, name)], "parquet"},
                note=_note(profile, name),
            )
            for name in names
        ),
        stage_asset(profile, "pretrain_tokens", group="data", kinds={"numpy"}),
    ]
