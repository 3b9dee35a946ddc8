"""The section of an eval report's page on CORE."""

from __future__ import annotations

from aquarat_core.evaluation import document as doc
from aquarat_core.evaluation.core.result import CoreReport, CoreTaskReport
from aquarat_core.evaluation.core.tasks import BASELINES
from aquarat_core.evaluation.wording import bounds, percent

HEADING = "CORE"


def core_section(report: CoreReport) -> list[doc.Block]:
    """Heading, what the figure is and what not, and a row for each task."""
    rows = tuple(task_row(task) for task in report["tasks"])
    head = ("Task", "Shots", "Questions", "Accuracy", "95% CI", f"Baseline ({report['baselines']})", "Centered")
    finding = doc.Paragraph(core_sentence(report), tone="finding")
    return [doc.Heading(HEADING), finding, doc.Table(head, rows), *_notes(report)]


def core_text(report: CoreReport) -> str:
    """The value with its 95% interval, which older reports lack: "0.1234 [0.1000, 0.1500]"."""
    value = f"{report['core']:.4f}"
    return f"{value} [{report['lo']:.4f}, {report['hi']:.4f}]" if "lo" in report and "hi" in report else value


def core_sentence(report: CoreReport) -> str:
    """The figure by its name, and whether it compares with published ones."""
    name, n, limit = report["name"], len(report["tasks"]), report["limit"]
    text = (
        f"{name} is {core_text(report)}: the mean over {n} tasks of (accuracy - baseline) / (1 - baseline), 0 for the "
        "baseline and 1 for perfect"
    )
    if report["absent"]:
        text += f". It is not CORE, which has {len(BASELINES)} tasks; absent: {', '.join(report['absent'])}"
    if limit is not None:
        text += f". Only up to {limit:,} questions of each task were asked, which also changes the examples before them"
    return f"{text}. The baselines are DataComp-LM's, {report['baselines']}, and in a few tasks higher than guessing."


def task_row(task: CoreTaskReport) -> tuple[str, ...]:
    """A row of a table: name, examples, questions, accuracy and its interval, baseline, and centered accuracy."""
    return (
        task["label"],
        str(task["shots"]),
        f"{task['n']:,}",
        percent(task["accuracy"]),
        bounds(task["lo"], task["hi"]),
        percent(task["baseline"]),
        f"{task['centered']:+.4f}",
    )


def _notes(report: CoreReport) -> list[doc.Block]:
    tasks = report["tasks"]
    extended, cropped, unscorable = (sum(t[k] for t in tasks) for k in ("extended", "cropped", "unscorable"))
    ties = sum(len(t["near_ties"]) for t in tasks)
    notes = [
        (extended, "had prompts longer than the model's context, read in full with extrapolated positions"),
        (cropped, "had prompts longer than the model's context, which lost their beginning"),
        (unscorable, "could not be scored and count as wrong; report.json names them"),
        (ties, "were decided by less than rounding may change; report.json names them"),
    ]
    text = "; ".join(f"{n:,} questions {what}" for n, what in notes if n)
    return [doc.Paragraph(f"{text}.")] if text else []
