"""The report on one checkpoint: what was asked, what it scored, and whether it differs from its parent.

`report.json` and `questions.parquet` are the content; `report.md` and `report.html` are views of them, with the curves
of the checkpoint's own training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from aquarat_core.artifacts import Artifact, CodeVersion
from aquarat_core.artifacts.lineage import format_profile
from aquarat_core.config import EvalConfig
from aquarat_core.config.protocols import GREEDY, RecordedProtocol
from aquarat_core.errors import DataError
from aquarat_core.evaluation.chat_core import ChatCore
from aquarat_core.evaluation.core.result import CoreReport
from aquarat_core.evaluation.figure_types import Evaluation
from aquarat_core.evaluation.interpret.analysis import Findings
from aquarat_core.evaluation.records import Record, by_evaluation, read_records
from aquarat_core.evaluation.summary import (
    Comparison,
    Summary,
    compare,
    question_difference,
    questions_sha256,
)
from aquarat_core.evaluation.three_figures import ThreeFigures
from aquarat_core.tasks import origin
from aquarat_core.tasks.task import Task

FORMAT = 1
N_SAMPLES = 8


class Identity(TypedDict):
    """Identifies one publication of an asset."""

    asset: str
    manifest_sha256: str
    data_version: str
    run_id: str


class ComparisonWithParent(TypedDict):
    """Either `result`, or the `reason` why there is none."""

    parent: str | None
    result: Comparison | None
    reason: str | None


class EvalReport(TypedDict):
    """Content of an eval report's `report.json`."""

    format: int
    asset: str
    checkpoint: dict[str, Any]
    evaluation: dict[str, Any]
    data: list[dict[str, Any]]
    summary: Summary
    bits_per_byte: float | None
    comparison: ComparisonWithParent
    evaluations: list[Evaluation]
    """All evaluations, the main task first; older reports have none."""
    chat_core: ChatCore | None
    core: NotRequired[CoreReport | None]
    three_figures: NotRequired[ThreeFigures]
    """The three figures of the main task, where `eval_report.forced_letter` asks for them."""
    interpretability: NotRequired[Findings | None]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An eval report as another stage reads it."""

    report: EvalReport
    records: list[Record]
    """The records of the main task."""
    by_name: Mapping[str, list[Record]] = field(default_factory=dict[str, list[Record]])
    """The records of all evaluations by name, in the order of the report; in an older report the name is empty."""

    @classmethod
    def read(cls, artifact: Artifact) -> Evaluated:
        """Raises `DataError` for a report of another format."""
        return cls.read_files(artifact.path("report.json"), artifact.path("questions.parquet"), artifact.asset)

    @classmethod
    def read_folder(cls, folder: Path) -> Evaluated:
        """The report in a folder that `aquarat eval --out` wrote. Raises `DataError` if it has none, as `read` does
        too."""
        report, questions = folder / "report.json", folder / "questions.parquet"
        if not report.is_file():
            raise DataError(f"{folder} has no report.json: name a folder that `aquarat eval --out` wrote")
        if not questions.is_file():
            raise DataError(f"{folder} has a report.json and no questions.parquet: it is no eval report")
        return cls.read_files(report, questions, str(folder))

    @classmethod
    def read_files(cls, report_json: Path, questions: Path, name: str) -> Evaluated:
        """The report in two files, which errors call by its name. Raises as `read` does."""
        report = json.loads(report_json.read_text(encoding="utf-8"))
        if (found := report.get("format")) != FORMAT:
            raise DataError(f"{name} has report format {found}, not {FORMAT}: make it again")
        evaluations = by_evaluation(read_records(questions))
        return cls(report, next(iter(evaluations.values())) if evaluations else [], evaluations)


def identity(artifact: Artifact) -> Identity:
    """The names by which an artifact can be found again."""
    return Identity(
        asset=artifact.asset,
        manifest_sha256=artifact.sha256,
        data_version=artifact.data_version,
        run_id=artifact.manifest.run_id,
    )


def grader_version(task: Task[Any]) -> str:
    """The module that grades the task's answers, and a hash of its source.

    Accuracies under different graders are different quantities.
    """
    return f"{task.grading_module}@{hashlib.sha256(task.grading_source().encode()).hexdigest()[:12]}"


def build(
    asset: str,
    checkpoint: Artifact,
    data: Sequence[Artifact],
    config: EvalConfig,
    profile: str,
    code: CodeVersion,
    grader: str,
    records: Sequence[Record],
    summary: Summary,
    bits_per_byte: float | None,
    evaluations: Sequence[Evaluation] = (),
    chat_core: ChatCore | None = None,
    decoding: RecordedProtocol = GREEDY,
) -> EvalReport:
    """The report without its comparison; `compare_with_parent` fills that in."""
    manifest = checkpoint.manifest
    settings = config.model_dump(include={"task", "split", "limit", "permute_options", "max_new_tokens", "seed"})
    return EvalReport(
        format=FORMAT,
        asset=asset,
        checkpoint={
            **identity(checkpoint),
            "profile": format_profile(manifest.profile, manifest.profile_sha256),
            "code": manifest.code.model_dump(),
            "seeds": manifest.seeds,
            "metrics": manifest.metrics,
            "parents": [p.model_dump() for p in manifest.parents],
        },
        evaluation={
            "profile": profile,
            "code": code.model_dump(),
            "decoding": decoding,
            "questions": origin.asked(config.task, data),
            "parser": grader,
            "questions_sha256": questions_sha256(records),
            **settings,
        },
        data=[{**identity(a), "metrics": a.manifest.metrics} for a in data],
        summary=summary,
        bits_per_byte=bits_per_byte,
        comparison=ComparisonWithParent(parent=None, result=None, reason="this is the first checkpoint of the chain"),
        evaluations=list(evaluations),
        chat_core=chat_core,
    )


def compare_with_parent(child: Evaluated, parent: Evaluated) -> ComparisonWithParent:
    """The paired comparison, if the parent report is about this checkpoint's parent and asked the same questions."""
    evaluated = parent.report["checkpoint"]["asset"]
    reason = (
        _not_its_parent(child.report, parent.report)
        or protocol_difference(child.report["evaluation"], parent.report["evaluation"])
        or question_difference(parent.records, child.records)
    )
    if reason:
        return ComparisonWithParent(parent=evaluated, result=None, reason=reason)
    result = compare(parent.records, child.records, (evaluated, child.report["checkpoint"]["asset"]))
    return ComparisonWithParent(parent=evaluated, result=result, reason=None)


def _not_its_parent(child: EvalReport, parent: EvalReport) -> str | None:
    """Compares data versions: a bit-identical re-run of the parent is the same checkpoint under a newer manifest."""
    checkpoint, evaluated = child["checkpoint"], parent["checkpoint"]
    trained_from = [p for p in checkpoint["parents"] if p["asset"] == evaluated["asset"]]
    if not trained_from:
        return f"{checkpoint['asset']} was not trained from {evaluated['asset']}"
    if evaluated["data_version"] in (p["data_version"] for p in trained_from):
        return None
    return (
        f"{parent['asset']} is about {evaluated['asset']} {evaluated['data_version'][:12]}, but {checkpoint['asset']} "
        f"was trained from {trained_from[0]['data_version'][:12]}: materialize the stages between them again"
    )


def protocol_difference(child: dict[str, Any], parent: dict[str, Any]) -> str | None:
    """The settings in which two evaluations differ so that their accuracies cannot be compared, or None."""
    names = ("parser", "decoding", "max_new_tokens", "split", "permute_options", "seed")
    different = [f"{x} was {parent[x]}, is {child[x]}" for x in names if parent[x] != child[x]]
    return f"the evaluations differ: {'; '.join(different)}" if different else None
