"""Checks of a report's findings. Most only warn: a weak model is a result, not a broken pipeline. One blocks: if the
answers can no longer be read, nothing should be made from the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from aquarat_core.config import Profile
from aquarat_core.config.rl import RLConfig
from aquarat_core.config.training import ChatTrainConfig
from aquarat_core.errors import UserError
from aquarat_core.evaluation.headline import accuracy_text
from aquarat_core.stages.registry import CHECKPOINTS, EVAL_REPORTS, STAGES
from aquarat_pipeline.checks.check import ERROR, WARN, Check, Finding, Subject, found
from aquarat_pipeline.events import manifest_of, metrics_of

_FIRST = "This is the first report of this asset."
_SIGNIFICANT = 0.05


def _beats_constant_letter(subject: Subject) -> Finding:
    metrics = subject.artifact.manifest.metrics
    low, constant = metrics["accuracy_lo"], metrics["constant_letter_accuracy"]
    if not isinstance(low, float | int) or not isinstance(constant, float | int):
        return found(False, "The report has no accuracy to compare.", WARN)
    above = low > constant
    said = f"The interval {'is above' if above else 'reaches down to'} the best constant answer, {constant:.1%}."
    return found(above, said, WARN, accuracy=accuracy_text(metrics), constant_letter_accuracy=constant)


def _not_worse_than_last(subject: Subject) -> Finding:
    compared = _compare(subject, subject.before) if subject.before else _FIRST
    if isinstance(compared, str):
        return found(True, compared)
    names = ("difference", "difference_lo", "difference_hi", "mcnemar_p", "minimum_detectable", "n")
    facts = {name: compared[name] for name in names}
    return found(compared["verdict"] != "below", compared["wording"], WARN, **facts)


def _not_worse_than_stage_before(subject: Subject) -> Finding:
    metrics = subject.artifact.manifest.metrics
    difference, p = metrics.get("parent_difference"), metrics.get("mcnemar_p")
    if not isinstance(difference, float | int) or not isinstance(p, float | int):
        return found(True, "The report is not compared with the one of the stage before.")
    # Imports numpy, which Dagster's definitions do without.
    from aquarat_core.evaluation.statistics import p_text

    worse = difference < 0 and p < _SIGNIFICANT
    said = f"{100 * difference:+.1f} points against the stage before on the same questions, {p_text(p, 'p')}."
    return found(not worse, said, WARN, difference=difference, mcnemar_p=p)


def _parse_rate_holds(subject: Subject) -> Finding:
    from aquarat_core.evaluation.predecessor import ParseRate, parse_collapse

    events = [subject.made, subject.before]
    facts: list[Mapping[str, Any]] = [metrics_of(event) if event else {} for event in events]
    rates = [ParseRate(f["parse_rate"], f["n"]) if f.get("parse_rate") is not None else None for f in facts]
    tasks = [_task(event) for event in events]
    if rates[0] is None:
        return found(True, "The report gives no parse rate.")
    before = rates[1] if tasks[0] == tasks[1] else None
    profile = subject.experiment.profile
    reason = parse_collapse(rates[0], before, tasks[0] in _trained_on(profile, subject.stage.name))
    severity = WARN if profile.rl_checkpoint.min_parse_rate == 0 else ERROR
    said = reason or f"{rates[0]} answers can be read; {_beside(rates[1], tasks)}"
    parse_rate_before = before.rate if before else None
    return found(reason is None, said, severity, parse_rate=rates[0].rate, parse_rate_before=parse_rate_before)


def _task(event: dg.AssetMaterialization | None) -> Any:
    """The task of a report, from Dagster's event, because the artifact of an earlier one may have been collected."""
    config: Any = event.metadata["config"].value if event and "config" in event.metadata else None
    return config.get("task") if config else None


def _beside(last: object, tasks: list[Any]) -> str:
    if last is None:
        return "there is no previous report to compare with."
    if tasks[0] != tasks[1]:
        return f"not compared with the previous report, which is about the task {tasks[1]}."
    return f"{last} in the previous report."


def _compare(subject: Subject, last: dg.AssetMaterialization) -> Any:
    """The comparison, or the reason why there is none."""
    from aquarat_core.evaluation.predecessor import compare_with_last
    from aquarat_core.evaluation.report import Evaluated

    try:
        artifacts = (subject.artifact, subject.artifact.store.get(manifest_of(last) or ""))
        reports = [Evaluated.read(artifact) for artifact in artifacts]
    except UserError as e:
        return f"Not compared with the previous report: {e}"
    compared = compare_with_last(*reports)
    return f"Not compared with the previous report: {compared}." if isinstance(compared, str) else compared


def _trained_on(profile: Profile, report: str) -> set[str]:
    """The tasks that the report's checkpoint was trained on, in its own stage or an earlier one."""
    names: set[str] = set()
    for checkpoint in CHECKPOINTS[: EVAL_REPORTS.index(report) + 1]:
        match STAGES[checkpoint].config(profile):
            case ChatTrainConfig() as config:
                names |= {entry.name for entry in config.mixture}
            case RLConfig() as config:
                names |= {task.name for task in config.tasks}
            case _:
                pass
    return names


OF_REPORTS = (
    Check(
        "beats_constant_letter",
        "The accuracy's interval is above the accuracy of always answering the most frequent letter.",
        _beats_constant_letter,
    ),
    Check(
        "not_worse_than_last",
        "Warns if the report is worse than the previous report of this asset, by an exact McNemar test and a bootstrap "
        "interval on the same questions. If questions or settings differ, it passes with a note.",
        _not_worse_than_last,
    ),
    Check(
        "parse_rate_holds",
        "Fails if no answer of a checkpoint that was trained on the task can be read, or at most half as many answers "
        "as in the previous report of this asset, beyond noise. Only warns if the profile accepts such models with "
        "rl_checkpoint.min_parse_rate: 0.",
        _parse_rate_holds,
        blocking=True,
    ),
)
"""The checks of every eval report."""
NOT_WORSE_THAN_STAGE_BEFORE = Check(
    "not_worse_than_stage_before",
    f"Warns if the checkpoint is worse than that of the stage before on the same questions (p < {_SIGNIFICANT}).",
    _not_worse_than_stage_before,
)
