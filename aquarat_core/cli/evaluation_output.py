"""The output of `aquarat eval`: its text, and the report that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from aquarat_core.artifacts import Artifact, CodeVersion, git_state
from aquarat_core.artifacts.names import shown
from aquarat_core.cli.table import table
from aquarat_core.config import EvalConfig
from aquarat_core.config.protocols import HARNESS
from aquarat_core.errors import UsageError
from aquarat_core.evaluation import page, three_figures
from aquarat_core.evaluation.chat_core import ChatCore
from aquarat_core.evaluation.core.result import CoreReport
from aquarat_core.evaluation.core.section import core_text, task_row
from aquarat_core.evaluation.figure_types import Evaluation, Figures
from aquarat_core.evaluation.figures import evaluate, remarks
from aquarat_core.evaluation.harness.running import HarnessResults, to_json
from aquarat_core.evaluation.plots import checkpoint_metrics
from aquarat_core.evaluation.records import Record, write_records
from aquarat_core.evaluation.report import EvalReport
from aquarat_core.evaluation.sections import ORDERS, rates_text
from aquarat_core.evaluation.statistics import p_text
from aquarat_core.evaluation.suite import Answered
from aquarat_core.evaluation.wording import bounds, percent, shortened
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.evaluations import report_of
from aquarat_core.stages.registry import EVAL_REPORTS, STAGES
from aquarat_core.tasks.origin import warning_about

HEADS = ("", "questions", "accuracy", "95% CI", "guessing", "best constant", "training's commonest", "longest", "read")
HARNESS_FILE = "lm_eval_results.json"
FILES = ("report.json", "questions.parquet", "report.md", "report.html", HARNESS_FILE)
"""The files of a folder with a report."""
BY_HAND = "aquarat eval"
"""The name of profile and asset in a report that was not made by a stage."""


@dataclass(slots=True)
class Found:
    """The answers of a checkpoint."""

    answered: list[Answered]
    """Answers to the tasks; those of lm-evaluation-harness come last."""
    core: CoreReport | None = None
    core_tasks: list[Answered] = field(default_factory=list[Answered])
    """Answers to the questions of CORE."""
    harness: HarnessResults | None = None
    """The results of lm-evaluation-harness, if it was asked for."""


def as_text(
    checkpoint: Artifact,
    evaluations: Sequence[Evaluation],
    chat: ChatCore | None,
    found: Found,
    looks: Sequence[str] = (),
    out: Path | None = None,
) -> str:
    """Warnings, one line for each evaluation, and what its protocol finds besides accuracy."""
    warnings = dict.fromkeys(warning for e in evaluations if (warning := warning_about(e["questions"])))
    lines = [*warnings, *remarks(evaluations)]
    lines += [""] if lines else []
    lines.append(shown(checkpoint))
    lines += ["", table([HEADS, *map(_row, evaluations)])] if evaluations else []
    details = [f"{e['name']}: {text}" for e in evaluations if (text := _details(e["figures"]))]
    details += _three_figures(found)
    lines += ["", *details] if details else []
    lines += _chat_core(chat) if chat else []
    lines += _core(found.core) if found.core else []
    lines += ["", *_harness_lines(found.harness)] if found.harness else []
    lines += ["", *looks] if looks else []
    if out:
        lines += ["", f"the report is in {out}"]
    return "\n".join(lines)


def _three_figures(found: Found) -> list[str]:
    """The figures of tasks that were asked greedily and after a forced cue, on the same questions."""
    records = _records(found)
    figures = {name: three_figures.of_evaluation(name, records) for name in records}
    return [three_figures.as_text(name.partition("/")[0], f) for name, f in figures.items() if f]


def _records(found: Found) -> dict[str, list[Record]]:
    """The records of each evaluation by its name."""
    return {one.facts["name"]: one.records for one in found.answered}


def _chat_core(chat: ChatCore) -> list[str]:
    absent = f"; without {', '.join(chat['absent'])}" if chat["absent"] else ""
    beside = [t["evaluation"] for t in chat["tasks"] if not t["counts"]]
    return [
        "",
        f"{chat['name']} {chat['value']:.4f} [{chat['lo']:.4f}, {chat['hi']:.4f}]{absent}",
        *([f"not counted in it: {', '.join(beside)}"] if beside else []),
    ]


def _core(core: CoreReport) -> list[str]:
    """CORE's tasks, and the mean."""
    heads = ("task of CORE", "shots", "questions", "accuracy", "95% CI", f"baseline ({core['baselines']})", "centered")
    absent = f"; without {', '.join(core['absent'])}" if core["absent"] else ""
    counts = {what: sum(t[what] for t in core["tasks"]) for what in ("extended", "cropped", "unscorable")}
    long = [f"{n:,} questions {what}" for what, n in counts.items() if n]
    return [
        "",
        table([heads, *map(task_row, core["tasks"])]),
        "",
        f"{core['name']} {core_text(core)}{absent}",
        *([", ".join(long)] if long else []),
    ]


def _harness_lines(harness: HarnessResults) -> list[str]:
    """The harness's own table, and the warnings that no evaluation of ours has."""
    said = {one.facts["task"] for one in harness.answered}
    cropped = [
        f"{HARNESS}/{task}: {n:,} prompts are longer than the model's context, and lost their beginning"
        for task, n in harness.cropped.items()
        if f"{HARNESS}/{task}" not in said
    ]
    return [f"lm-evaluation-harness {harness.results['lm_eval_version']}:", harness.table.rstrip(), *cropped]


def _row(e: Evaluation) -> tuple[str, ...]:
    f, b = e["figures"], e["baselines"]
    constant, majority = b["constant"], b["majority"]
    return (
        e["name"],
        f"{e['n']:,}",
        percent(f["accuracy"]),
        bounds(f["lo"], f["hi"]),
        percent(b["chance"]),
        f"{percent(constant['accuracy'])} {shortened(constant['letter'])}",
        f"{percent(majority['accuracy'])} {shortened(majority['letter'])}" if majority else "-",
        percent(b["longest"]) if b["longest"] is not None else "-",
        rates_text(e)[0],
    )


def _details(f: Figures) -> str:
    """The figures of a protocol besides accuracy, on one line."""
    found: list[str] = []
    if "pass_at" in f and "majority_at" in f:
        found += [f"pass@{k} {percent(r['value'])} (guessing {percent(r['guess'])})" for k, r in f["pass_at"].items()]
        found += [f"majority@{k} {percent(r['value'])}" for k, r in list(f["majority_at"].items())[-1:]]
    if "calibration" in f and "margin" in f:
        c = f["calibration"]
        found.append(f"margin {f['margin']:.2f} nats")
        found += [f"{percent(f['letter_mass'])} of the probability on letters"] if "letter_mass" in f else []
        found.append(f"Brier {c['brier']:.3f}, log loss {c['log_loss']:.3f}")
        found.append(f"ECE {c['ece']:.3f} (calibrated: {c['ece_if_calibrated']:.3f})")
    if "rotation" in f:
        r = f["rotation"]
        if alike := r["consistency"]:
            found.append(f"{percent(alike['value'])} of {r['rotated']:,} answered alike in all orders")
        found += [f"{r['kept']:,} keep their order"] if r["kept"] else []
        d = r["difference"]
        found.append(
            f"{100 * d['value']:+z.1f} points to the order as given {bounds(d['lo'], d['hi'], '+')}, "
            f"{p_text(r['difference_p'], 'p')}: {ORDERS[r['difference_verdict']]}"
        )
        found += [
            f"places of {n} options answered {'/'.join(map(str, b['counts']))}, Cramér's V {b['cramers_v']:.2f}, "
            f"{p_text(b['p'], 'p')}; accuracy by place of the right option: Cochran's Q {b['cochran_q']:.1f}, "
            f"{p_text(b['cochran_p'], 'p')}"
            for n, b in r["bias"].items()
        ]
    return "; ".join(found)


def write_report(
    folder: Path,
    checkpoint: Artifact,
    data: Sequence[Artifact],
    config: EvalConfig,
    found: Found,
    evaluations: Sequence[Evaluation],
    chat: ChatCore | None,
    looks: Sequence[str],
) -> None:
    """Writes the files of an eval report and its pages; they get their final names once all are complete. The results
    of lm-evaluation-harness are also written in that program's own form. They are the only file if no row can be right
    or wrong and nothing else was asked. Raises `UsageError` for a folder that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # What an earlier report has left, and this one does not have.
        stale = set(FILES)
        with TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
            made = Path(unfinished)
            if found.harness:
                (made / HARNESS_FILE).write_text(to_json(found.harness.results), encoding="utf-8")
            if found.answered:
                report = _report(checkpoint, data, config, found, evaluations, chat)
                everything = [*found.answered, *found.core_tasks]
                rows = [r for one in everything for r in one.records]
                write_records(made / "questions.parquet", rows, [a.facts for a in everything])
                beside = page.Beside(_records(found), checkpoint_metrics(checkpoint), looks=looks)
                page.write(made, made, report, beside)
            for file in sorted(made.iterdir()):
                file.replace(folder / file.name)
                stale.discard(file.name)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
    except OSError as e:
        raise UsageError(f"{folder} cannot be written: {e.strerror or e}. Take another folder with --out") from None


def _report(
    checkpoint: Artifact,
    data: Sequence[Artifact],
    config: EvalConfig,
    found: Found,
    evaluations: Sequence[Evaluation],
    chat: ChatCore | None,
) -> EvalReport:
    commit, dirty = git_state(REPO_ROOT)
    code = CodeVersion(version=code_version(STAGES[EVAL_REPORTS[-1]], config), commit=commit, dirty=dirty)
    everything = [*evaluations, *(evaluate(one.facts, one.records) for one in found.core_tasks)]
    report = report_of(BY_HAND, checkpoint, data, config, BY_HAND, code, found.answered, everything, chat)
    report["comparison"]["reason"] = "aquarat eval looks at one checkpoint, and aquarat compare at two"
    report["core"] = found.core
    main = found.answered[0].facts
    if figures := three_figures.of_evaluation(main["name"], _records(found)):
        report["three_figures"] = figures
    if tokens := main["settings"].get("max_new_tokens"):
        report["evaluation"]["max_new_tokens"] = tokens
    if main["protocol"] == HARNESS:
        # The config's own main task was not asked.
        asked = {"task": main["task"], "split": main["split"], "questions": main["questions"]}
        report["evaluation"].update(asked, permute_options=False)
    return report
