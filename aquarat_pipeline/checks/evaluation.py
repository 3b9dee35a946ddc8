"""Checks of a report's findings. Most only warn: a weak model is a result, not a broken pipeline. One blocks: if the
answers can no longer be read, nothing should be made from the report."""

from typing import Any

import dagster as dg

from aquarat_core.artifacts import ArtifactError
from aquarat_core.config import Profile
from aquarat_core.config.rl import RLConfig
from aquarat_core.config.training import ChatTrainConfig
from aquarat_core.errors import UserError
from aquarat_core.evaluation.headline import accuracy_text
from aquarat_core.stages.registry import CHECKPOINTS, EVAL_REPORTS, STAGES
from aquarat_pipeline.assets.events import manifest_of
from aquarat_pipeline.checks.artifacts import latest
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.resources.store import StoreResource

_FIRST = "This is the first report of this asset."


def evaluation_checks(experiment: Experiment) -> list[dg.AssetChecksDefinition]:
    """For every eval report of an experiment: `beats_constant_letter` and `not_worse_than_last`, which warn, and
    `parse_rate_holds`, which blocks."""
    makers = (_beats_constant_letter, _not_worse_than_last, _parse_rate_holds)
    return [make(experiment, name) for make in makers for name in EVAL_REPORTS]


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


def _not_worse_than_last(experiment: Experiment, report: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=experiment.key(report),
        op_tags=experiment.tags,
        description=(
            "Warns if the report is worse than the previous report of this asset, by an exact McNemar test and a "
            "bootstrap interval on the same questions. If questions or settings differ, it passes with a note."
        ),
    )
    def not_worse_than_last(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        now, last = _last_two(context.instance, experiment.key(report))
        compared = _compare(store, now, last) if last else _FIRST
        if isinstance(compared, str):
            return dg.AssetCheckResult(passed=True, description=compared)
        names = ("difference", "difference_lo", "difference_hi", "mcnemar_p", "minimum_detectable", "n")
        return dg.AssetCheckResult(
            passed=compared["verdict"] != "below",
            severity=dg.AssetCheckSeverity.WARN,
            description=compared["wording"],
            metadata={name: compared[name] for name in names},
        )

    return not_worse_than_last


def _parse_rate_holds(experiment: Experiment, report: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=experiment.key(report),
        op_tags=experiment.tags,
        blocking=True,
        description=(
            "Fails if no answer of a checkpoint that was trained on the task can be read, or at most half as many "
            "answers as in the previous report of this asset, beyond noise. Only warns if the profile accepts such "
            "models with rl_checkpoint.min_parse_rate: 0."
        ),
    )
    def parse_rate_holds(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        from aquarat_core.evaluation.predecessor import ParseRate, parse_collapse

        facts = [_facts(made) for made in _last_two(context.instance, experiment.key(report))]
        rates = [ParseRate(f["parse_rate"], f["n"]) if f.get("parse_rate") is not None else None for f in facts]
        tasks: list[Any] = [f["config"].get("task") if "config" in f else None for f in facts]
        if rates[0] is None:
            return dg.AssetCheckResult(passed=True, description="The report gives no parse rate.")
        before = rates[1] if tasks[0] == tasks[1] else None
        reason = parse_collapse(rates[0], before, tasks[0] in _trained_on(experiment.profile, report))
        accepted = experiment.profile.rl_checkpoint.min_parse_rate == 0
        return dg.AssetCheckResult(
            passed=reason is None,
            severity=dg.AssetCheckSeverity.WARN if accepted else dg.AssetCheckSeverity.ERROR,
            description=reason or f"{rates[0]} answers can be read; {_beside(rates[1], tasks)}",
            metadata={"parse_rate": rates[0].rate, **({"parse_rate_before": before.rate} if before else {})},
        )

    return parse_rate_holds


def _beside(last: object, tasks: list[Any]) -> str:
    if last is None:
        return "there is no previous report to compare with."
    if tasks[0] != tasks[1]:
        return f"not compared with the previous report, which is about the task {tasks[1]}."
    return f"{last} in the previous report."


def _last_two(
    instance: dg.DagsterInstance, key: dg.AssetKey
) -> tuple[dg.AssetMaterialization, dg.AssetMaterialization | None]:
    """The asset's latest materialization and the one before it."""
    records = instance.fetch_materializations(key, limit=2).records
    made = [record.asset_materialization for record in records if record.asset_materialization]
    if not made:
        raise ArtifactError(f"{key.to_user_string()} has not been materialized yet")
    return made[0], made[1] if len(made) > 1 else None


def _facts(made: dg.AssetMaterialization | None) -> dict[str, Any]:
    """Metrics and config from Dagster's event, because the previous artifact may have been collected."""
    return {name: held.value for name, held in made.metadata.items()} if made else {}


def _compare(store: StoreResource, now: dg.AssetMaterialization, last: dg.AssetMaterialization) -> Any:
    """The comparison, or the reason why there is none."""
    from aquarat_core.evaluation.predecessor import compare_with_last
    from aquarat_core.evaluation.report import Evaluated

    opened = store.open()
    try:
        reports = [Evaluated.read(opened.get(manifest_of(made) or "")) for made in (now, last)]
    except UserError as e:
        return f"Not compared with the previous report: {e}"
    compared = compare_with_last(*reports)
    return f"Not compared with the previous report: {compared}." if isinstance(compared, str) else compared


def _trained_on(profile: Profile, report: str) -> set[str]:
    """The tasks that the report's checkpoint was trained on, in its own stage or an earlier one."""
    found: set[str] = set()
    for checkpoint in CHECKPOINTS[: EVAL_REPORTS.index(report) + 1]:
        match STAGES[checkpoint].config(profile):
            case ChatTrainConfig() as config:
                found |= {entry.name for entry in config.mixture}
            case RLConfig() as config:
                found |= {task.name for task in config.tasks}
            case _:
                pass
    return found
