"""The page of one eval report: what the checkpoint scored, what that is compared with, and answers in full."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquarat_core.config.protocols import CORE, GREEDY, HARNESS
from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation import plots, three_figures
from aquarat_core.evaluation.core.section import core_section
from aquarat_core.evaluation.examples import examples_section
from aquarat_core.evaluation.figure_types import Evaluation
from aquarat_core.evaluation.figures import remarks
from aquarat_core.evaluation.predecessor import since_last
from aquarat_core.evaluation.records import Record
from aquarat_core.evaluation.report import ComparisonWithParent, EvalReport, Evaluated
from aquarat_core.evaluation.sections import chat_core_section, details_section, overview_section
from aquarat_core.evaluation.statistics import p_text, wilson_interval
from aquarat_core.evaluation.summary import Summary, none_parsed
from aquarat_core.evaluation.wording import (
    answer_noun,
    baseline_sentence,
    bounds,
    comparison_sentence,
    facts_text,
    interval,
    percent,
    rate,
)
from aquarat_core.tasks import origin


@dataclass(frozen=True, slots=True)
class Beside:
    """The parts of a page that are not in the report. Some depend on other artifacts of the store, so they are left out
    of `report.json`, whose bytes are the same for equal evaluations."""

    records: Mapping[str, Sequence[Record]]
    """The records of each evaluation by its name, the main one first."""
    curves: Sequence[plots.Row] = ()
    """The checkpoint's training metrics."""
    inside: Sequence[doc.Block] = ()
    """The section on what happens inside the model."""
    looks: Sequence[str] = ()
    """Sentences on how often the questions were looked at before."""
    last: Evaluated | None = None
    """The previous report of the same asset."""


def write(outdir: Path, extras_dir: Path, report: EvalReport, beside: Beside) -> None:
    """Write `report.json` under `outdir`, and `report.md` and `report.html` under `extras_dir`."""
    write_pages(outdir, extras_dir, report, to_document(report, beside))


def write_pages(outdir: Path, extras_dir: Path, report: Any, document: doc.Document) -> None:
    """`report` as JSON with sorted keys (equal reports give equal bytes) and `document` in its two renderings."""
    text = json.dumps(report, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    (outdir / "report.json").write_text(text + "\n", encoding="utf-8")
    (extras_dir / "report.md").write_text(document.to_markdown(), encoding="utf-8")
    (extras_dir / "report.html").write_text(document.to_html(), encoding="utf-8")


def to_document(report: EvalReport, beside: Beside) -> doc.Document:
    """The page of one eval report."""
    checkpoint, evaluation, s = report["checkpoint"], report["evaluation"], report["summary"]
    order = f"options permuted with seed {evaluation['seed']}" if evaluation["permute_options"] else "options as given"
    return doc.Document(
        title=f"{checkpoint['asset']} on {questions_text(evaluation)} ({evaluation['split']})",
        subtitle=(f"{s['n']:,} questions, {order}; {_how_asked(evaluation)}. Profile {checkpoint['profile']}."),
        blocks=(
            *origin_band(questions_text(evaluation)),
            *_warnings(report),
            doc.Tiles(_tiles(report)),
            doc.Paragraph(baseline_sentence(checkpoint["asset"], s), tone="finding"),
            doc.Paragraph(comparison_sentence(report["comparison"]), tone="finding"),
            *three_figures.section(report.get("three_figures")),
            _accuracy_figure(report),
            *_letter_table(s),
            *_paired_table(report["comparison"]),
            *overview_section(_apart_from_core(report)),
            *chat_core_section(report["chat_core"]),
            *(core_section(core) if (core := report.get("core")) else ()),
            *details_section(_apart_from_core(report)),
            *since_last(_evaluated(report, beside.records), beside.last),
            *beside.inside,
            *curves_section({checkpoint["asset"]: beside.curves}),
            *examples_section(beside.records, evaluation["seed"]),
            doc.Heading("What this report is about"),
            _identity_table(report),
            *(doc.Paragraph(sentence) for sentence in beside.looks),
        ),
    )


def _apart_from_core(report: EvalReport) -> list[Evaluation]:
    """The evaluations without the tasks of CORE, which have a section of their own."""
    return [e for e in report["evaluations"] if e["protocol"] != CORE]


def _evaluated(report: EvalReport, records: Mapping[str, Sequence[Record]]) -> Evaluated:
    by_name = {name: list(rows) for name, rows in records.items()}
    return Evaluated(report, next(iter(by_name.values()), list[Record]()), by_name)


def _how_asked(evaluation: Mapping[str, Any]) -> str:
    if evaluation["decoding"] == HARNESS:
        return "asked and graded by lm-evaluation-harness"
    if evaluation["decoding"] != GREEDY:
        return f"the most likely choice of each (protocol {evaluation['decoding']})"
    return (
        f"one greedy answer to each, of up to {evaluation['max_new_tokens']} tokens; only its last line is graded, and "
        "what cannot be read counts as wrong"
    )


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


def _warnings(report: EvalReport) -> list[doc.Paragraph]:
    """Warnings to read before any number."""
    found = remarks(report["evaluations"])
    if not report["evaluations"] and (warning := none_parsed(report["summary"])):
        found.append(warning)
    return [doc.Paragraph(text, tone="warning") for text in found]


def _tiles(report: EvalReport) -> tuple[doc.Tile, ...]:
    s, result = report["summary"], report["comparison"]["result"]
    constant, majority = s["constant_letter"], s["majority"]
    parsed, cut = (wilson_interval(round(s[key] * s["n"]), s["n"]) for key in ("parse_rate", "truncation_rate"))
    form = (
        f"95% CI {bounds(*parsed)}; {rate(s['truncation_rate'], *cut)} cut off by the limit; {s['mean_tokens']:.1f} "
        "tokens on average"
    )
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
            f"95% CI {bounds(result['difference_lo'], result['difference_hi'], '+')}, "
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
        ("Trained", facts_text(checkpoint["metrics"])),
        ("Checkpoint's code", code_text(checkpoint["code"])),
        ("Evaluation's code", f"{code_text(evaluation['code'])}, profile {evaluation['profile']}"),
        ("Parser", evaluation["parser"]),
        ("Questions asked", f"{evaluation['questions_sha256']} (ids, prompts, right letters)"),
        *((f"Data: {d['asset']}", f"data version {d['data_version']}") for d in report["data"]),
        *((f"Trained from: {p['asset']}", f"data version {p['data_version']}") for p in checkpoint["parents"]),
    ]
    return doc.Table(("What", "Which"), tuple(rows), text_columns=(0, 1))
