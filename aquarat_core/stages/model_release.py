"""model_release: the last checkpoint of the chain as a folder that Hugging Face tools open, with its model card."""

from __future__ import annotations

from aquarat_core.config.release import ReleaseConfig
from aquarat_core.evaluation.report import Evaluated
from aquarat_core.exchange.release import write_release
from aquarat_core.stages.base import Scalar, StageContext


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Writes the release, its card and its lineage."""
    config: ReleaseConfig = ctx.config
    checkpoint, evaluation = ctx.input("_checkpoint"), ctx.input("_eval_report")
    assert checkpoint is not None and evaluation is not None, "the stage table gives a release both"
    release = write_release(ctx.outdir, checkpoint, Evaluated.read(evaluation).report, config)
    ctx.log(release.facts.form)
    return {"parameters": release.parameters, "remote_code": release.facts.remote_code}
