"""A page about the whole chain, from the four checkpoints and their four eval reports."""

from __future__ import annotations

import json
from dataclasses import replace

from aquarat_core.evaluation import chain_costs, chain_report
from aquarat_core.evaluation.page import write_pages
from aquarat_core.evaluation.plots import checkpoint_metrics
from aquarat_core.evaluation.report import Evaluated
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.registry import CHAIN


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Writes `report.json`, and the pages as records."""
    stages: list[chain_report.StageResult] = []
    for done, name in enumerate(CHAIN, 1):
        checkpoint, evaluation = ctx.inputs[f"{name}_checkpoint"], ctx.inputs[f"{name}_eval_report"]
        curves = checkpoint_metrics(checkpoint)
        stages.append(chain_report.StageResult(checkpoint, evaluation, Evaluated.read(evaluation), curves))
        ctx.progress(done, len(CHAIN), "stages")
    report = chain_report.build(stages)
    document = chain_report.to_document(report, {s.checkpoint.asset: s.curves for s in stages})
    costs = _costs()
    document = replace(document, blocks=(*document.blocks, *chain_costs.section(costs)))
    write_pages(ctx.outdir, ctx.extras_dir, report, document)
    if costs:
        (ctx.extras_dir / chain_costs.FILE).write_text(json.dumps(costs, indent=1, allow_nan=False) + "\n")
    for warning in report["warnings"]:
        ctx.log(warning)
    return metrics(report)


def _costs() -> list[chain_costs.CostRow]:
    """What the control host passes about the costs of the stages; nothing if the stage was started by hand."""
    from dagster_pipes import PipesContext

    if not PipesContext.is_initialized():
        return []
    return chain_costs.rows_of(PipesContext.get().extras.get(chain_costs.EXTRA))


def metrics(report: chain_report.ChainReport) -> dict[str, Scalar]:
    """Each stage's accuracy with its interval, the accuracy of a constant letter, and the last paired test."""
    found: dict[str, Scalar] = {}
    for name, row in zip(CHAIN, report["stages"], strict=True):
        s = row["summary"]
        found |= {f"{name}_accuracy": s["accuracy"], f"{name}_lo": s["accuracy_lo"], f"{name}_hi": s["accuracy_hi"]}
    last = report["stages"][-1]
    found["constant_letter_accuracy"] = last["summary"]["constant_letter"]["accuracy"]
    if result := last["comparison"]["result"]:
        found |= {"rl_difference": result["difference"], "rl_mcnemar_p": result["mcnemar_p"]}
    return found
