"""Which checks an asset has, and their evaluation: in the step that makes the asset, or again at any time."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from aquarat_core.errors import UserError
from aquarat_core.plain_text import first_line
from aquarat_core.stages.registry import CHECKPOINTS, EVAL_REPORTS
from aquarat_core.stages.stage import Stage
from aquarat_pipeline.checks.artifacts import COMPLETE, LINEAGE
from aquarat_pipeline.checks.check import ERROR, WARN, Check, Finding, Subject, found
from aquarat_pipeline.checks.data import OF_QUESTIONS, OF_TOKENIZER
from aquarat_pipeline.checks.evaluation import NOT_WORSE_THAN_STAGE_BEFORE, OF_REPORTS
from aquarat_pipeline.checks.training import LOSS, REWARD
from aquarat_pipeline.experiments import Experiment


def checks_of(stage: Stage) -> tuple[Check, ...]:
    """The checks of a stage's asset, the most basic first."""
    return (COMPLETE, *((LINEAGE,) if stage.inputs else ()), *_own(stage.name))


def _own(name: str) -> tuple[Check, ...]:
    if name == "aqua_dataset":
        return OF_QUESTIONS
    if name == "tokenizer":
        return OF_TOKENIZER
    if name == CHECKPOINTS[-1]:
        return (REWARD,)
    if name in CHECKPOINTS:
        return (LOSS,)
    if name in EVAL_REPORTS:
        return (*OF_REPORTS, *((NOT_WORSE_THAN_STAGE_BEFORE,) if name != EVAL_REPORTS[0] else ()))
    return ()


def check_specs(experiment: Experiment, stage: Stage) -> list[dg.AssetCheckSpec]:
    """The checks as Dagster declares them on the asset."""
    key = experiment.key(stage.name)
    return [
        dg.AssetCheckSpec(check.name, asset=key, description=check.description, blocking=check.blocking)
        for check in checks_of(stage)
    ]


def results(subject: Subject) -> Iterator[tuple[Check, dg.AssetCheckResult]]:
    """Evaluates all checks of a materialization. Raises nothing: a check that cannot be evaluated is not passed."""
    for check in checks_of(subject.stage):
        finding = _evaluated(check, subject)
        yield (
            check,
            dg.AssetCheckResult(
                check_name=check.name,
                asset_key=subject.experiment.key(subject.stage.name),
                passed=finding.passed,
                severity=finding.severity,
                description=finding.said,
                metadata=finding.facts,
            ),
        )


def _evaluated(check: Check, subject: Subject) -> Finding:
    try:
        return check.evaluate(subject)
    except UserError as e:
        return found(False, f"It could not be evaluated: {e}", ERROR)
    except Exception as e:  # a mistake in a check must not lose a stage that took hours
        return found(False, f"It could not be evaluated: {type(e).__name__}: {first_line(e)}", WARN)
