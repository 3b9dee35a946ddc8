"""The report on a whole chain: base, mid, SFT and RL in one table, paired tests between neighbours, curves, lineage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypedDict

from aquarat_core.artifacts import Artifact
from aquarat_core.config.protocols import CORE
from aquarat_core.data.packing import MANY_LEFT_OUT
from aquarat_core.errors import DataError
from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation import page, plots
from aquarat_core.evaluation import report as reports
from aquarat_core.evaluation.chain_pairs import (
    correct_comparisons,
    correct_lines,
    lines_section,
    other_lines,
    paired_table,
)
from aquarat_core.evaluation.chat_core import ChatCore
from aquarat_core.evaluation.comparing import Line
from aquarat_core.evaluation.core.result import CoreReport
from aquarat_core.evaluation.figure_types import Evaluation
from aquarat_core.evaluation.report import ComparisonWithParent, Evaluated, Identity
from aquarat_core.evaluation.statistics import p_text
from aquarat_core.evaluation.summary import Summary
from aquarat_core.evaluation.wording import (
    answer_noun,
    baseline_sentence,
    comparison_sentence,
    facts_text,
    interval,
    percent,
    rate,
)

FORMAT = 1


@dataclass(frozen=True, slots=True)
class StageResult:
    """One checkpoint of the chain, the artifact of its evaluation, what that found, and its training curves."""

    checkpoint: Artifact
    evaluation: Artifact
    evaluated: Evaluated
    curves: Sequence[plots.Row]


class StageRow(TypedDict):
    """One line of the table."""

    checkpoint: Identity
    evaluation: Identity
    questions: str
    """What the checkpoint was asked, as its own report says it."""
    summary: Summary
    bits_per_byte: float | None
    comparison: ComparisonWithParent
    evaluations: list[Evaluation]
    """The checkpoint's evaluations, the main task first, without the tasks of CORE."""
    p_corrected: float | None
    """The p-value of `comparison` after Holm's correction for the chain's comparisons; None for the first stage, or
    without a result."""
    lines: list[Line]
    """The other evaluations against those of the stage before, corrected for the number of all such lines."""
    core: CoreValue | None
    chat_core: ChatCore | None
    cost: Cost


class CoreValue(TypedDict):
    """CORE by its name, with its 95 % interval, which older reports lack."""

    name: str
    core: float
    lo: float | None
    hi: float | None


class Cost(TypedDict):
    """The cost of training a checkpoint, as far as its manifest tells."""

    tokens: float | None
    """Tokens trained on; in RL, tokens sampled."""
    flops: float | None
    """Floating-point operations of the model's matrix products, forward and backward."""
    seconds: float | None
    """Duration of the stage's last attempt."""
    ranks: float | None
    hardware: str
    dollars: float | None
    """Price of the last attempt on the hosts that it ran on; None if the inventory gives no price."""


class ChainReport(TypedDict):
    """Content of the pipeline report's `report.json`."""

    format: int
    stages: list[StageRow]
    data: list[dict[str, Any]]
    lineage: list[Identity]
    profiles: list[str]
    """The checkpoints' profiles, without repeats."""
    warnings: list[str]


def build(stages: Sequence[StageResult]) -> ChainReport:
    """The report on `stages`, first to last. Raises `DataError` when an evaluation is of another checkpoint."""
    rows: list[StageRow] = []
    for before, now in zip([None, *stages], stages, strict=False):
        _check_evaluation(now)
        comparison = reports.compare_with_parent(now.evaluated, before.evaluated) if before else None
        rows.append(
            StageRow(
                checkpoint=reports.identity(now.checkpoint),
                evaluation=reports.identity(now.evaluation),
                questions=page.questions_text(now.evaluated.report["evaluation"]),
                summary=now.evaluated.report["summary"],
                bits_per_byte=now.evaluated.report["bits_per_byte"],
                comparison=comparison or now.evaluated.report["comparison"],
                evaluations=[e for e in now.evaluated.report.get("evaluations", []) if e["protocol"] != CORE],
                p_corrected=None,
                lines=other_lines(_with_config(before), _with_config(now)) if before else [],
                core=_core_value(core) if (core := now.evaluated.report.get("core")) else None,
                chat_core=now.evaluated.report.get("chat_core"),
                cost=cost_of(now.checkpoint),
            )
        )
    adjusted = correct_comparisons([(row["checkpoint"]["asset"], row["comparison"]) for row in rows[1:]])
    for row, p in zip(rows[1:], adjusted, strict=True):
        row["p_corrected"] = p
    correct_lines(line for row in rows for line in row["lines"])
    lineage = ancestry(artifact for s in stages for artifact in (s.checkpoint, s.evaluation))
    data = {d["manifest_sha256"]: d for s in stages for d in s.evaluated.report["data"]}
    return ChainReport(
        format=FORMAT,
        stages=rows,
        data=list(data.values()),
        lineage=lineage,
        profiles=sorted({s.evaluated.report["checkpoint"]["profile"] for s in stages}),
        warnings=[*inconsistencies(lineage), *left_out(s.checkpoint for s in stages)],
    )


def _with_config(stage: StageResult) -> tuple[Evaluated, dict[str, Any]]:
    return stage.evaluated, stage.evaluation.manifest.config


def _core_value(core: CoreReport) -> CoreValue:
    return CoreValue(name=core["name"], core=core["core"], lo=core.get("lo"), hi=core.get("hi"))


def cost_of(checkpoint: Artifact) -> Cost:
    """The cost of a checkpoint's training, from the metrics in its manifest."""
    found, hardware = checkpoint.manifest.metrics, checkpoint.manifest.hardware
    seconds, per_second = _number(found.get("seconds")), _number(found.get("model_flops_per_second"))
    gpus, price = hardware.get("gpus"), _number(hardware.get("price_per_hour"))
    machine = f"{gpus} x {hardware.get('gpu')}" if gpus else f"{hardware.get('cores')} cores of {hardware.get('cpu')}"
    return Cost(
        tokens=_number(found.get("tokens", found.get("sampled_tokens"))),
        flops=None if seconds is None or per_second is None else seconds * per_second,
        seconds=seconds,
        ranks=_number(found.get("ranks")),
        hardware=machine,
        dollars=None if seconds is None or price is None else seconds / 3600 * price,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def ancestry(artifacts: Iterable[Artifact]) -> list[Identity]:
    """The artifacts and all their parents, each publication once, in the order of the chain: parents first."""
    found: dict[str, Identity] = {}
    for artifact in artifacts:
        for p in artifact.manifest.parents:
            found.setdefault(p.manifest_sha256, Identity(**p.model_dump()))
        found.setdefault(artifact.sha256, reports.identity(artifact))
    return list(found.values())


def inconsistencies(lineage: Sequence[Identity]) -> list[str]:
    """Assets of which the chain used more than one version, so that its stages do not belong together."""
    versions: dict[str, set[str]] = {}
    for entry in lineage:
        versions.setdefault(entry["asset"], set()).add(entry["data_version"][:12])
    return [
        f"{asset} took part in {len(found)} versions ({', '.join(sorted(found))}): materialize what depends on it again"
        for asset, found in versions.items()
        if len(found) > 1
    ]


def left_out(checkpoints: Iterable[Artifact]) -> list[str]:
    """Warnings about checkpoints that were trained without many of their conversations, which are longer than a row."""
    shares = {c.asset: c.manifest.metrics.get("too_long_share") for c in checkpoints}
    return [
        f"{asset} was trained without {share:.0%} of its conversations, which are longer than its context: to keep "
        f"their first turns set {asset}.too_long: trim"
        for asset, share in shares.items()
        if isinstance(share, float) and share > MANY_LEFT_OUT
    ]


def to_document(report: ChainReport, curves: dict[str, Sequence[plots.Row]]) -> doc.Document:
    """The page of the whole chain."""
    names = [row["checkpoint"]["asset"] for row in report["stages"]]
    kinds = {row["questions"] for row in report["stages"]}
    asked = " or ".join(f"{n:,}" for n in sorted({row["summary"]["n"] for row in report["stages"]}))
    return doc.Document(
        title=f"From base to RL on {' and '.join(sorted(kinds))}: the whole chain",
        subtitle=f"{', '.join(names)}; {asked} questions each ({' and '.join(sorted(kinds))}), one greedy answer to "
        f"each, of which only the last line is graded. Profile {' and '.join(report['profiles'])}.",
        blocks=(
            *next((band for band in map(page.origin_band, sorted(kinds)) if band), ()),
            *(doc.Paragraph(text, tone="warning") for text in report["warnings"]),
            _tiles(report),
            *(doc.Paragraph(text, tone="finding") for text in _findings(report)),
            _accuracy_figure(report),
            doc.Heading("Stages"),
            _stage_table(report),
            doc.Heading("Each stage against the one before"),
            paired_table(
                [(row["checkpoint"]["asset"], row["comparison"], row["p_corrected"]) for row in report["stages"][1:]]
            ),
            *_evaluations(report),
            *lines_section(
                [
                    (a["checkpoint"]["asset"], b["checkpoint"]["asset"], b["lines"])
                    for a, b in pairwise(report["stages"])
                ]
            ),
            *page.curves_section(curves),
            doc.Heading("What it took"),
            cost_table((row["checkpoint"]["asset"], row["cost"]) for row in report["stages"]),
            doc.Heading("Data"),
            _data_table(report),
            doc.Heading("Lineage"),
            _lineage_table(report),
        ),
    )


def _check_evaluation(stage: StageResult) -> None:
    evaluated, checkpoint = stage.evaluated.report["checkpoint"], stage.checkpoint
    if (evaluated["asset"], evaluated["data_version"]) != (checkpoint.asset, checkpoint.data_version):
        raise DataError(
            f"{stage.evaluation.asset} is about {evaluated['asset']} {evaluated['data_version'][:12]}, but the chain "
            f"holds {checkpoint.asset} {checkpoint.data_version[:12]}: materialize {stage.evaluation.asset} again first"
        )


def _findings(report: ChainReport) -> list[str]:
    last = report["stages"][-1]
    name = last["checkpoint"]["asset"]
    return [baseline_sentence(name, last["summary"]), comparison_sentence(last["comparison"])]


def _tiles(report: ChainReport) -> doc.Tiles:
    rows = [(row["checkpoint"]["asset"], row["summary"]) for row in report["stages"]]
    tiles = [doc.Tile(name, percent(s["accuracy"]), f"95% CI {interval(s)}") for name, s in rows]
    constant = rows[-1][1]["constant_letter"]
    note = f"best constant {answer_noun(rows[-1][1])}; guessing: {percent(rows[-1][1]['uniform'])}"
    tiles.append(doc.Tile(f"Always answering {constant['letter']}", percent(constant["accuracy"]), note))
    return doc.Tiles(tuple(tiles))


def _accuracy_figure(report: ChainReport) -> doc.Figure:
    rows = [(row["checkpoint"]["asset"], row["summary"]) for row in report["stages"]]
    points = [plots.Accuracy(name, s["accuracy"], s["accuracy_lo"], s["accuracy_hi"]) for name, s in rows]
    last = rows[-1][1]
    figure = plots.draw_accuracies(points, last["uniform"], last["constant_letter"]["accuracy"], answer_noun(last))
    caption = (
        "Accuracies with 95% Wilson intervals. Whether two stages differ is for the paired tests below, "
        "not for the overlap of the bars."
    )
    return doc.Figure(plots.to_svg(figure, "accuracy"), plots.to_png_data_uri(figure), caption)


def _stage_table(report: ChainReport) -> doc.Table:
    noun = answer_noun(report["stages"][-1]["summary"])
    header = (
        "Checkpoint", "Questions", "Accuracy", "95% CI", f"Constant {noun}", "Against it, exact McNemar",
        "Answers that parse", f"{noun.capitalize()} entropy, bits", "Mean tokens", "Bits per byte",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for row in report["stages"]:
        s, bpb = row["summary"], row["bits_per_byte"]
        rows.append(
            (
                row["checkpoint"]["asset"],
                f"{s['n']:,}",
                percent(s["accuracy"]),
                interval(s),
                f"{s['constant_letter']['letter']} {percent(s['constant_letter']['accuracy'])}",
                f"{s['against_constant']}, {p_text(s['p_against_constant'], 'p')}",
                percent(s["parse_rate"]),
                f"{s['letter_entropy_bits']:.2f}",
                f"{s['mean_tokens']:.1f}",
                "-" if bpb is None else f"{bpb:.4f}",
            )
        )
    caption = f"Each test against the constant {noun} stands alone: its p is not corrected for the others."
    return doc.Table(header, tuple(rows), text_columns=(0, 5), caption=caption)


def _evaluations(report: ChainReport) -> list[doc.Block]:
    """All evaluations of all checkpoints side by side; nothing if there is only the main task."""
    names = list(dict.fromkeys(e["name"] for row in report["stages"] for e in row["evaluations"]))
    if len(names) < 2 and not any(row["core"] for row in report["stages"]):
        return []
    columns = [{e["name"]: e for e in row["evaluations"]} for row in report["stages"]]
    rows = [
        (
            name,
            " or ".join(f"{n:,}" for n in sorted({found[name]["n"] for found in columns if name in found})),
            *(_accuracy(found.get(name)) for found in columns),
        )
        for name in names
    ]
    chat = [row["chat_core"] for row in report["stages"]]
    for name in dict.fromkeys(c["name"] for c in chat if c):
        values = (f"{c['value']:.4f} [{c['lo']:.4f}, {c['hi']:.4f}]" if c and c["name"] == name else "-" for c in chat)
        rows.append((name, "-", *values))
    cores = [row["core"] for row in report["stages"]]
    for name in dict.fromkeys(c["name"] for c in cores if c):
        rows.append((name, "-", *(_core_text(c) if c and c["name"] == name else "-" for c in cores)))
    header = ("Task / protocol", "Questions", *(row["checkpoint"]["asset"] for row in report["stages"]))
    return [
        doc.Heading("All evaluations"),
        doc.Table(header, tuple(rows), caption="Accuracy with its 95% interval; baselines are on each report's page."),
    ]


def _accuracy(e: Evaluation | None) -> str:
    return rate(e["figures"]["accuracy"], e["figures"]["lo"], e["figures"]["hi"]) if e else "-"


def _core_text(core: CoreValue) -> str:
    value = f"{core['core']:.4f}"
    return value if core["lo"] is None or core["hi"] is None else f"{value} [{core['lo']:.4f}, {core['hi']:.4f}]"


def cost_table(costs: Iterable[tuple[str, Cost]]) -> doc.Table:
    """A row for each checkpoint: the tokens, FLOPs, time and money that its training took."""
    rows: list[tuple[str, ...]] = []
    for name, c in costs:
        hours = None if c["seconds"] is None else c["seconds"] / 3600
        rows.append(
            (
                name,
                "-" if c["tokens"] is None else f"{c['tokens']:,.0f}",
                "-" if c["flops"] is None else f"{c['flops']:.2e}",
                "-" if hours is None else f"{hours:.3g}",
                "-" if hours is None or c["ranks"] is None else f"{hours * c['ranks']:.3g}",
                "-" if c.get("dollars") is None else f"{c['dollars']:,.2f}",
                c["hardware"],
            )
        )
    caption = (
        "Tokens are those trained on, in RL those sampled; FLOPs are those of the model's products in training. Hours "
        "and dollars are of the stage's last attempt; a host's price is its price_per_hour in hosts.yaml."
    )
    header = ("Checkpoint", "Tokens", "FLOPs", "Hours", "Rank-hours", "Dollars", "Hardware")
    return doc.Table(header, tuple(rows), text_columns=(0, 6), caption=caption)


def _data_table(report: ChainReport) -> doc.Table:
    rows = [(d["asset"], d["data_version"][:12], facts_text(d["metrics"])) for d in report["data"]]
    return doc.Table(("Asset", "Data version", "Facts"), tuple(rows), text_columns=(0, 1, 2))


def _lineage_table(report: ChainReport) -> doc.Table:
    rows = tuple(
        (x["asset"], x["data_version"][:12], x["manifest_sha256"][:12], x["run_id"]) for x in report["lineage"]
    )
    caption = "Parents first; hashes cut to 12 digits here, whole in report.json."
    return doc.Table(("Asset", "Data version", "Manifest", "Run"), rows, text_columns=(0, 1, 2, 3), caption=caption)
