"""The part of an eval report that looks inside the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aquarat_core.config import EvalConfig
from aquarat_core.config.fields import covers
from aquarat_core.evaluation.document import Block
from aquarat_core.evaluation.interpret.analysis import Findings, findings, interpret, write
from aquarat_core.evaluation.interpret.section import interpretability_section
from aquarat_core.evaluation.protocols import Evaluator
from aquarat_core.stages.base import StageContext
from aquarat_core.tasks.task import Example, Task


def look_inside(
    ctx: StageContext, evaluator: Evaluator, task: Task[Any], examples: Sequence[Example[Any]]
) -> tuple[Findings | None, list[Block]]:
    """Writes `interpretability.json`; returns what `report.json` says of it, and the page's section.

    Nothing where the profile does not ask for it, for this checkpoint. One rank does it alone, after the others have
    done their part.
    """
    config: EvalConfig = ctx.config
    if config.interpret is None or not covers(config.interpret.of, ctx.spec.stage.removesuffix("_eval_report")):
        return None, []
    result = interpret(evaluator.model, evaluator.tokenizer, task, examples, config.interpret)
    write(ctx.outdir / "interpretability.json", result)
    return findings(result), interpretability_section(result)
