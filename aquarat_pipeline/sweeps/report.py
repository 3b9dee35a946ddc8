"""The results of a sweep: what every setting reaches, and which differ from the reference beyond noise.

Seeds of one setting are repetitions: their answers to a question are averaged before the settings are compared question
by question, and the spread over seeds is printed beside. All comparisons of the sweep are corrected together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore
from aquarat_core.artifacts.names import beside, by_hash
from aquarat_core.artifacts.survey import READERS
from aquarat_core.artifacts.transfer import parallel_map
from aquarat_core.cli.table import table
from aquarat_core.evaluation.comparing import Answers, Line, answers_of, correct, side_by_side
from aquarat_core.evaluation.headline import headline
from aquarat_core.evaluation.report import Evaluated
from aquarat_core.evaluation.statistics import p_text
from aquarat_core.evaluation.wording import bounds, percent
from aquarat_core.stages.registry import EVAL_REPORTS
from aquarat_pipeline.sweeps.ladder import Curve, Rung, fitted, rung_of
from aquarat_pipeline.sweeps.spec import Point, Settings, Sweep

FINDINGS = {"above": "better", "below": "worse", "no difference shown": "no difference shown"}


@dataclass(frozen=True, slots=True)
class Compared:
    """One evaluation of one setting beside that of the reference."""

    settings: Settings
    asset: str
    seeds: tuple[int, int]
    """Repetitions of the reference and of this setting."""
    line: Line


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is known about a sweep's results."""

    sweep: Sweep
    made: dict[str, dict[str, Artifact]]
    """By experiment, the assets of `make` that are there."""
    names: dict[str, list[str]]
    compared: tuple[Compared, ...]
    left_out: tuple[str, ...]
    """Why evaluations were not compared."""
    spread: dict[tuple[Settings, str], list[float]]
    """By setting and report, the accuracy of each seed."""
    rungs: tuple[Rung, ...]
    curve: Curve | str | None
    """The fitted curve of a ladder, or why there is none."""


def results(sweep: Sweep, store_uri: str, price: float | None = None) -> Results:
    """Reads the results that are in the store. `price` is that of one GPU for an hour, in dollars."""
    store = ArtifactStore.open(store_uri)
    made = _made(store, sweep.points)
    groups: dict[Settings, list[Point]] = {}
    for point in sweep.points:
        groups.setdefault(point.settings, []).append(point)
    compared: list[Compared] = []
    left_out: list[str] = []
    spread: dict[tuple[Settings, str], list[float]] = {}
    for asset in (name for name in sweep.file.make if name in EVAL_REPORTS):
        answers: dict[Settings, list[list[Answers]]] = {}
        for settings, points in groups.items():
            reports = [made[p.experiment.name][asset] for p in points if asset in made[p.experiment.name]]
            answers[settings] = [answers_of(Evaluated.read(report), report.manifest.config) for report in reports]
            spread[settings, asset] = [
                float(value) for r in reports if isinstance(value := r.manifest.metrics.get("accuracy"), (int, float))
            ]
        _compare(asset, sweep, answers, compared, left_out)
    correct([one.line for one in compared], sweep.file.correction)
    rungs = [rung for p in sweep.points if (rung := rung_of(p, made[p.experiment.name], price))]
    shown = {name: {asset: there[asset] for asset in sweep.file.make if asset in there} for name, there in made.items()}
    return Results(
        sweep, shown, by_hash(store), tuple(compared), tuple(left_out), spread,
        tuple(rungs) if sweep.file.ladder else (), fitted(rungs) if sweep.file.ladder else None,
    )  # fmt: skip


def _made(store: ArtifactStore, points: Sequence[Point]) -> dict[str, dict[str, Artifact]]:
    """The assets of each experiment that are there, in the order of the chain."""

    def latest(ref: str) -> Artifact | None:
        try:
            return store.latest(ref)
        except ArtifactError:
            return None  # `aquarat store verify` says what is damaged

    wanted = [(point.experiment, name) for point in points for name in point.names]
    read = parallel_map(latest, [experiment.ref(name) for experiment, name in wanted], READERS)
    found: dict[str, dict[str, Artifact]] = {point.experiment.name: {} for point in points}
    for (experiment, name), artifact in zip(wanted, read, strict=True):
        if artifact is not None:
            found[experiment.name][name] = artifact
    return found


def _compare(
    asset: str,
    sweep: Sweep,
    answers: dict[Settings, list[list[Answers]]],
    compared: list[Compared],
    left_out: list[str],
) -> None:
    """Adds the comparisons of all settings with the reference, by one report."""
    reference = answers[sweep.reference]
    for settings, runs in answers.items():
        if settings == sweep.reference:
            continue
        if not runs or not reference:
            whose = _label(settings if not runs else sweep.reference)
            left_out.append(f"{whose}: {asset} is not made yet")
            continue
        found = side_by_side(_pooled(reference), _pooled(runs), common=True)
        compared += [Compared(settings, asset, (len(reference), len(runs)), line) for line in found["lines"]]
        left_out += [f"{_label(settings)}, {asset} {one['name']}: {one['reason']}" for one in found["not_compared"]]


def _pooled(runs: Sequence[Sequence[Answers]]) -> list[Answers]:
    """The answers of all repetitions, as several answers to each question."""
    found: dict[str, list[Answers]] = {}
    for run in runs:
        for answers in run:
            found.setdefault(answers.name, []).append(answers)
    return [replace(same[0], records=[r for a in same for r in a.records]) for same in found.values()]


def machine(found: Results) -> dict[str, Any]:
    """The results for programs."""
    return {
        "sweep": found.sweep.name,
        "reference": dict(found.sweep.reference),
        "correction": found.sweep.file.correction,
        "points": [
            {"experiment": p.experiment.name, "settings": dict(p.settings), "seed": p.seed,
             "made": {name: {"manifest_sha256": a.sha256, "metrics": dict(a.manifest.metrics)}
                      for name, a in found.made[p.experiment.name].items()}}
            for p in found.sweep.points
        ],
        "compared": [
            {"settings": dict(one.settings), "asset": one.asset, "seeds": one.seeds, **one.line}
            for one in found.compared
        ],
        "not_compared": list(found.left_out),
        "ladder": [asdict(rung) for rung in found.rungs],
        "curve": asdict(found.curve) if isinstance(found.curve, Curve) else found.curve,
    }  # fmt: skip


def text(found: Results) -> str:
    """The results for people."""
    parts = [_points(found)]
    if found.compared:
        parts += [_comparisons(found), _notes(found)]
    if found.left_out:
        parts.append(
            "\n".join(["Not compared (A is the reference, B the setting):", *(f"  {line}" for line in found.left_out)])
        )
    if found.rungs:
        parts.append(_ladder(found.rungs))
    if found.curve is not None:
        parts.append(found.curve if isinstance(found.curve, str) else found.curve.text())
    return "\n\n".join(parts)


def _points(found: Results) -> str:
    rows = [("point", "asset", "manifest", "result")]
    for point in found.sweep.points:
        made = found.made[point.experiment.name]
        for n, asset in enumerate(found.sweep.file.make):
            label = "" if n else point.label
            if asset not in made:
                rows.append((label, asset, "-", "not made yet"))
                continue
            which = beside(made[asset].sha256, found.names, 8)
            rows.append((label, asset, which, headline(made[asset].manifest.metrics)))
    return table(rows)


def _comparisons(found: Results) -> str:
    seeds = any(len(values) > 1 for values in found.spread.values())
    heads = ("setting", "evaluation", "questions", "accuracy", "minus reference, points", "p", "corrected", "finding")
    rows: list[tuple[str, ...]] = [(*heads, *(("over seeds",) if seeds else ()))]
    for one in found.compared:
        line, values = one.line, found.spread[one.settings, one.asset]
        over = f"{percent(min(values))} to {percent(max(values))}, {len(values)} seeds" if values else "-"
        rows.append((
            _label(one.settings), f"{one.asset} {line['name']}".strip(), f"{line['n']:,}",
            percent(line["second"]["accuracy"]),
            f"{100 * line['difference']:+.1f} {bounds(line['difference_lo'], line['difference_hi'], '+')}",
            p_text(line["p"]), p_text(line["p_corrected"]), FINDINGS[line["verdict"]], *((over,) if seeds else ()),
        ))  # fmt: skip
    return table(rows)


def _notes(found: Results) -> str:
    n = len(found.compared)
    how = {"holm": "Holm", "benjamini-hochberg": "Benjamini and Hochberg"}[found.sweep.file.correction]
    notes = [
        f"The reference is {_label(found.sweep.reference)}. Differences are paired by question; p is corrected for "
        f"{n} comparison{'s' if n > 1 else ''} by the method of {how}."
    ]
    open_ = [one.line["minimum_detectable"] for one in found.compared if one.line["verdict"] == "no difference shown"]
    known = [value for value in open_ if value is not None]
    if known:
        notes.append(f"Where none is shown, one of about {100 * max(known):.1f} points would have been found.")
    if any(len(values) > 1 for values in found.spread.values()):
        notes.append(
            "The tests are about questions: answers of a setting's seeds are averaged for each question. A difference "
            "smaller than the range over seeds may be due to the seeds."
        )
    return " ".join(notes)


def _ladder(rungs: Sequence[Rung]) -> str:
    heads = ("depth", "tokens per parameter", "parameters", "tokens", "bits per byte", "accuracy", "hours", "cost")
    rows = [
        (str(r.depth), f"{r.tokens / r.parameters:.1f}", f"{r.parameters / 1e6:,.2f} M", f"{r.tokens / 1e6:,.2f} M",
         "-" if r.bits_per_byte is None else f"{r.bits_per_byte:.4f}",
         "-" if r.accuracy is None else percent(r.accuracy), f"{r.hours:.3f}",
         "-" if r.dollars is None else f"${r.dollars:.2f}")
        for r in sorted(rungs, key=lambda r: (r.parameters, r.tokens))
    ]  # fmt: skip
    return table([heads, *rows], right=range(len(heads)))


def _label(settings: Settings) -> str:
    return ", ".join(f"{field}={value}" for field, value in settings) or "the profile itself"
