"""Checks of a report's findings. They only warn: a weak model is a result, not a broken pipeline."""

import dagster as dg

from aquarat_core.stages.registry import EVAL_REPORTS
from aquarat_pipeline.assets.metadata import accuracy_text
from aquarat_pipeline.checks.artifacts import latest
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.resources.store import StoreResource


def evaluation_checks(experiment: Experiment) -> list[dg.AssetChecksDefinition]:
    """`beats_constant_letter` for every eval report of an experiment."""
    return [_beats_constant_letter(experiment, name) for name in EVAL_REPORTS]


def _beats_constant_letter(experiment: Experiment, report: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=experiment.key(report),
        op_tags=experiment.tags,
        description="The accuracy's interval is above the accuracy of always answering the most frequent letter.",
    )
    def beats_constant_letter(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        metrics = latest(context.instance, store, experiment.key(report))[0].manifest.metrics
        low, constant = metrics["accuracy_lo"], metrics["constant_letter_accuracy"]
        return dg.AssetCheckResult(
            passed=isinstance(low, float | int) and isinstance(constant, float | int) and low > constant,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "accuracy": accuracy_text(metrics),
                "constant_letter_accuracy": constant,
            },
        )

    return beats_constant_letter
