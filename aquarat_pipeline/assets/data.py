"""The data sets."""

import dagster as dg

from aquarat_pipeline.assets.stage import stage_asset
from aquarat_pipeline.experiments import Experiment

_KINDS = {"hub": "huggingface", "synthetic": "python"}
_NOTES = {"hub": "From the Hugging Face Hub.", "synthetic": "Generated here, not real data."}


def _source(experiment: Experiment, name: str) -> str:
    return getattr(experiment.profile, name).source


def _note(experiment: Experiment, name: str) -> str:
    return _NOTES[_source(experiment, name)]


def data_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """What everything else is made from: questions, conversations and plain text, the text as tokens too."""
    names = ("aqua_dataset", "chat_datasets", "pretrain_text")
    return [
        *(
            stage_asset(
                experiment,
                name,
                group="data",
                kinds={_KINDS[_source(experiment, name)], "parquet"},
                note=_note(experiment, name),
            )
            for name in names
        ),
        stage_asset(experiment, "pretrain_tokens", group="data", kinds={"numpy"}),
    ]
