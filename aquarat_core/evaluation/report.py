"""The report on one checkpoint: what was asked, what it scored, and whether it differs from its parent.

`report.json` and `questions.parquet` are the content; `report.md` and `report.html` are views of them, with the curves
of the checkpoint's own training.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from aquarat_core.artifacts import Artifact, CodeVersion
from aquarat_core.artifacts.lineage import format_profile
from aquarat_core.config import EvalConfig
from aquarat_core.config.protocols import GREEDY, EvalProtocol
from aquarat_core.errors import DataError
from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation import plots
from aquarat_core.evaluation.chat_core import ChatCore
from aquarat_core.evaluation.figures import Evaluation
from aquarat_core.evaluation.interpret.analysis import Findings
from aquarat_core.evaluation.records import Record, by_evaluation, read_records
from aquarat_core.evaluation.statistics import p_text, wilson_interval
from aquarat_core.evaluation.summary import (
    Comparison,
    Summary,
    compare,
    none_parsed,
    question_difference,
    questions_sha256,
)
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
    """All that the checkpoint was asked, the main task first; reports from before there were several have none."""
    chat_core: ChatCore | None
    interpretability: NotRequired[Findings | None]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An eval report as another stage reads it."""

    report: EvalReport
    records: list[Record]
    """Those of the main task."""
    by_name: Mapping[str, list[Record]] = field(default_factory=dict[str, list[Record]])
    """Those of all evaluations by their names, in the order of the report; an older report's have no name."""

    @classmethod
    def read(cls, artifact: Artifact) -> Evaluated:
        """Raises `DataError` for a report of another format."""
        return cls.read_files(artifact.path("report.json"), artifact.path("questions.parquet"), artifact.asset)

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
    decoding: EvalProtocol = GREEDY,
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


def write(
    outdir: Path,
    extras_dir: Path,
    report: EvalReport,
    records: Sequence[Record],
    curves: Sequence[plots.Row],
    inside: Sequence[doc.Block] = (),
    looks: Sequence[str] = (),
) -> None:
    """Write `report.json` under `outdir`, and `report.md` and `report.html` under `extras_dir`.

    `looks` are sentences on how often the questions were looked at before. They depend on what else the store has, so
    they are on the pages alone: equal evaluations have equal content.
    """
    write_pages(outdir, extras_dir, report, to_document(report, records, curves, inside, looks))


def write_pages(outdir: Path, extras_dir: Path, report: Any, document: doc.Document) -> None:
    """`report` as JSON with sorted keys (equal reports give equal bytes) and `document` in its two renderings."""
    text = json.dumps(report, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    (outdir / "report.json").write_text(text + "\n", encoding="utf-8")
    (extras_dir / "report.md").write_text(document.to_markdown(), encoding="utf-8")
    (extras_dir / "report.html").write_text(document.to_html(), encoding="utf-8")


# --- the page -------------------------------------------------------------------------------------------------------


def to_document(
    report: EvalReport,
    records: Sequence[Record],
    curves: Sequence[plots.Row],
    inside: Sequence[doc.Block] = (),
    looks: Sequence[str] = (),
) -> doc.Document:
    """The page of one eval report; `inside` is the section on what happens inside the model."""
    checkpoint, evaluation, s = report["checkpoint"], report["evaluation"], report["summary"]
    order = f"options permuted with seed {evaluation['seed']}" if evaluation["permute_options"] else "options as given"
    return doc.Document(
        title=f"{checkpoint['asset']} on {questions_text(evaluation)} ({evaluation['split']})",
        subtitle=(f"{s['n']:,} questions, {order}; {_how_asked(evaluation)}. Profile {checkpoint['profile']}."),
        blocks=(
            *origin_band(questions_text(evaluation)),
            *_none_parsed(s),
            doc.Tiles(_tiles(report)),
            *_too_long(s),
            doc.Paragraph(baseline_sentence(checkpoint["asset"], s), tone="finding"),
            doc.Paragraph(comparison_sentence(report["comparison"]), tone="finding"),
            _accuracy_figure(report),
            *_letter_table(s),
            *_paired_table(report["comparison"]),
            *inside,
            *curves_section({checkpoint["asset"]: curves}),
            doc.Heading(f"{min(N_SAMPLES, s['n'])} answers, drawn at random"),
            *_samples(records, evaluation["seed"]),
            doc.Heading("What this report is about"),
            _identity_table(report),
            *(doc.Paragraph(sentence) for sentence in looks),
        ),
    )


def _how_asked(evaluation: Mapping[str, Any]) -> str:
    if evaluation["decoding"] != GREEDY:
        return f"the most likely choice of each (protocol {evaluation['decoding']})"
    return (
        f"one greedy rationale each, up to {evaluation['max_new_tokens']} tokens; an answer counts only as the last "
        "line, and none counts as wrong"
    )


def baseline_sentence(name: str, s: Summary) -> str:
    """Whether the accuracy is more than a constant answer's, with the evidence."""
    best = s["constant_letter"]
    constant = f"the best constant {answer_noun(s)} ({best['letter']}, {percent(best['accuracy'])})"
    verdict = {"above": "is above", "below": "is below"}.get(s["against_constant"], "is not shown to differ from")
    return f"{name} {verdict} {constant}: {accuracy_text(s)}, {p_text(s['p_against_constant'], 'exact McNemar p')}."


def comparison_sentence(c: ComparisonWithParent) -> str:
    """The paired finding, or why there is none."""
    return c["result"]["wording"] if c["result"] else f"No comparison with a parent stage: {c['reason']}."


def answer_noun(s: Summary) -> str:
    """What one answer is: a letter where the answers are few and have letters for names."""
    return "letter" if s["letters"] else "answer"


def accuracy_text(s: Summary) -> str:
    """An accuracy as it may be printed: with its interval."""
    return f"{percent(s['accuracy'])} {interval(s)}"


def interval(s: Summary) -> str:
    """The Wilson interval in percent."""
    return f"[{100 * s['accuracy_lo']:.1f}, {100 * s['accuracy_hi']:.1f}]"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def curves_section(curves: dict[str, Sequence[plots.Row]]) -> list[doc.Block]:
    """The training curves of the named stages in one figure, or a line that says there are none."""
    panels = [
        panel
        for name, rows in curves.items()
        for panel in plots.curve_panels(rows, name.removesuffix("_checkpoint") if len(curves) > 1 else "")
    ]
    if not panels:
        return [doc.Heading("Training"), doc.Paragraph("The checkpoint keeps no training metrics.")]
    figure = plots.draw_curves(panels)
    caption = "Faint: logged values (means of bins where there are many). Bold: their centred running mean."
    return [
        doc.Heading("Training"),
        doc.Figure(plots.to_svg(figure, "curves"), plots.to_png_data_uri(figure), caption),
    ]


def questions_text(evaluation: Mapping[str, Any]) -> str:
    """What the questions are; older reports do not record it."""
    return evaluation.get("questions", origin.UNKNOWN)


def origin_band(questions: str) -> tuple[doc.Paragraph, ...]:
    """The warning about scores on these questions that stands at the top of every page, if there is one."""
    warning = origin.warning_about(questions)
    return (doc.Paragraph(warning, tone="warning"),) if warning else ()


def _none_parsed(s: Summary) -> tuple[doc.Paragraph, ...]:
    warning = none_parsed(s)
    return (doc.Paragraph(warning, tone="warning"),) if warning else ()


def _too_long(s: Summary) -> tuple[doc.Paragraph, ...]:
    if not s.get("too_long"):  # reports from before it was counted have none
        return ()
    text = f"{s['too_long']:,} of {s['n']:,} questions did not fit the model's context: not asked, counted as wrong."
    return (doc.Paragraph(text, tone="warning"),)


def _tiles(report: EvalReport) -> tuple[doc.Tile, ...]:
    s, result = report["summary"], report["comparison"]["result"]
    constant, majority = s["constant_letter"], s["majority"]
    form = f"{percent(s['truncation_rate'])} cut off by the limit; {s['mean_tokens']:.1f} tokens on average"
    tiles = [
        doc.Tile("Accuracy", percent(s["accuracy"]), f"95% CI {interval(s)}, {s['correct']:,} of {s['n']:,}"),
        doc.Tile(
            f"Always answering {constant['letter']}",
            percent(constant["accuracy"]),
            f"best constant {answer_noun(s)} here; training majority {majority['letter']}: "
            f"{percent(majority['accuracy'])}; guessing: {percent(s['uniform'])}",
        ),
        doc.Tile("Answers that parse", percent(s["parse_rate"]), form),
    ]
    if result:
        note = (
            f"95% CI [{100 * result['difference_lo']:+.1f}, {100 * result['difference_hi']:+.1f}], "
            f"{p_text(result['mcnemar_p'], 'exact McNemar p')}"
        )
        name = f"Points over {report['comparison']['parent']}"
        tiles.append(doc.Tile(name, f"{100 * result['difference']:+.1f}", note))
    if report["bits_per_byte"] is not None:
        tiles.append(doc.Tile("Bits per byte", f"{report['bits_per_byte']:.4f}", "held-out pretraining text"))
    return tuple(tiles)


def _accuracy_figure(report: EvalReport) -> doc.Figure:
    s, comparison = report["summary"], report["comparison"]
    points = [plots.Accuracy(report["checkpoint"]["asset"], s["accuracy"], s["accuracy_lo"], s["accuracy_hi"])]
    if result := comparison["result"]:
        correct = result["both_right"] + result["only_parent"]
        points.insert(0, plots.Accuracy(str(comparison["parent"]), correct / s["n"], *wilson_interval(correct, s["n"])))
    figure = plots.draw_accuracies(points, s["uniform"], s["constant_letter"]["accuracy"], answer_noun(s))
    caption = f"Accuracy with its 95% Wilson interval, against guessing and the best constant {answer_noun(s)}."
    return doc.Figure(plots.to_svg(figure, "accuracy"), plots.to_png_data_uri(figure), caption)


def _letter_table(s: Summary) -> tuple[doc.Block, ...]:
    if not s["letters"]:
        return ()
    rows = [
        (x, *(f"{row[key]:,}" for key in ("gold", "answered", "correct")), percent(row["answered"] / s["n"]))
        for x, row in s["letters"].items()
    ]
    unparsed = s["n"] - sum(row["answered"] for row in s["letters"].values())
    rows.append(("no answer", "-", f"{unparsed:,}", "-", percent(unparsed / s["n"])))
    table = doc.Table(
        ("Letter", "Is right", "Was answered", "Answered rightly", "Share of answers"),
        tuple(rows),
        caption=(
            f"Entropy of the answered letters: {s['letter_entropy_bits']:.2f} bits of at most "
            f"{math.log2(len(s['letters'])):.2f} (0: always the same letter)."
        ),
    )
    return doc.Heading("Letters"), table


def _paired_table(c: ComparisonWithParent) -> list[doc.Block]:
    if not (result := c["result"]):
        return []
    return [
        doc.Heading(f"Question by question against {c['parent']}"),
        doc.Table(
            ("Questions", "Right now", "Wrong now"),
            (
                ("Right before", f"{result['both_right']:,}", f"{result['only_parent']:,}"),
                ("Wrong before", f"{result['only_child']:,}", f"{result['both_wrong']:,}"),
            ),
        ),
    ]


def _samples(records: Sequence[Record], seed: int) -> list[doc.Sample]:
    chosen = random.Random(seed).sample(sorted(records, key=lambda r: r.id), min(N_SAMPLES, len(records)))
    return [
        doc.Sample(
            title=f"{r.id}: right is {r.gold}, answered {r.parsed or 'nothing that parses'}, {r.n_tokens} tokens",
            verdict="right" if r.correct else "wrong" if r.parsed else "no answer",
            question=r.question,
            completion=r.completion,
        )
        for r in chosen
    ]


def code_text(code: dict[str, Any]) -> str:
    """Commit, whether the checkout was dirty, and the hash of the stage's sources and config."""
    commit = f"commit {code['commit'][:12]}" if code["commit"] else "no git checkout"
    return f"{commit}{' with uncommitted changes' if code['dirty'] else ''}, code version {code['version'][:12]}"


def _identity_table(report: EvalReport) -> doc.Table:
    checkpoint, evaluation = report["checkpoint"], report["evaluation"]
    seeds = ", ".join(f"{k} {v}" for k, v in sorted(checkpoint["seeds"].items())) or "none"
    rows = [
        ("Checkpoint", checkpoint["asset"]),
        ("Manifest", checkpoint["manifest_sha256"]),
        ("Data version", checkpoint["data_version"]),
        ("Made by run", f"{checkpoint['run_id']}, profile {checkpoint['profile']}, seeds: {seeds}"),
        ("Trained", "; ".join(f"{k} {v}" for k, v in sorted(checkpoint["metrics"].items()))),
        ("Checkpoint's code", code_text(checkpoint["code"])),
        ("Evaluation's code", f"{code_text(evaluation['code'])}, profile {evaluation['profile']}"),
        ("Parser", evaluation["parser"]),
        ("Questions asked", f"{evaluation['questions_sha256']} (ids, prompts, right letters)"),
        *((f"Data: {d['asset']}", f"data version {d['data_version']}") for d in report["data"]),
        *((f"Trained from: {p['asset']}", f"data version {p['data_version']}") for p in checkpoint["parents"]),
    ]
    return doc.Table(("What", "Which"), tuple(rows), text_columns=(0, 1))
