"""The reports: one for each checkpoint, and one over the whole chain."""

import dagster as dg

from aquarat_pipeline.assets.stage import stage_asset
from aquarat_pipeline.experiments import Experiment

EVAL_REPORTS = ("base_eval_report", "mid_eval_report", "sft_eval_report", "rl_eval_report")


def evaluation_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """Accuracy on the questions with its interval and baselines, and what the chain as a whole achieved."""
    return [
        *(stage_asset(experiment, name, group="evaluation", kinds={"torch", "markdown"}) for name in EVAL_REPORTS),
        stage_asset(experiment, "pipeline_report", group="evaluation", kinds={"markdown", "html"}),
    ]
