"""`aquarat sweep FILE --plan`: what a sweep would make, what it would take from the store, hours and cost."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.artifacts.names import beside
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.table import table
from aquarat_core.durations import duration
from aquarat_core.errors import UserError
from aquarat_core.settings import store_uri
from aquarat_core.stages.forecast import Gpus, forecast
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.assets.reuse import Earlier, Nearest
from aquarat_pipeline.cli.forecast import gpus_of
from aquarat_pipeline.runs import prices, readiness
from aquarat_pipeline.sweeps.planning import Cell, SweepPlan, nearest, planned
from aquarat_pipeline.sweeps.spec import Sweep

if TYPE_CHECKING:
    import dagster as dg


@dataclass(frozen=True, slots=True)
class _Row:
    """One result that the sweep needs and its own chains do not have yet."""

    cell: Cell
    points: int
    what: str
    seconds: float | None = None
    basis: str = ""
    dollars: float | None = None

    def facts(self) -> dict[str, Any]:
        return {
            "asset": self.cell.ref, "points": self.points, "how": self.cell.how, "what": self.what,
            "seconds": self.seconds, "basis": self.basis, "dollars": self.dollars,
            "from": self.cell.artifact.sha256 if self.cell.artifact else None,
        }  # fmt: skip


def show(
    arguments: argparse.Namespace, instance: dg.DagsterInstance, sweep: Sweep, tags: Mapping[str, str]
) -> str | CheckFailed:
    """What `--plan` prints. Nothing is changed, and no experiment is added."""
    gpus, ranks = gpus_of(arguments)
    earlier = Earlier(instance, ArtifactStore.open(store_uri()))
    plan = planned(instance, earlier, sweep.points)
    rows = _rows(plan, earlier, gpus, ranks)
    problem, said, rentals = _places(Path(instance.root_directory), plan, tags)
    facts = {
        "sweep": sweep.name,
        "points": [
            {"experiment": point.experiment.name, "settings": dict(point.settings), "seed": point.seed,
             "stages": {cell.stage: cell.how for cell in plan.of(point)}}
            for point in sweep.points
        ],
        "results": [row.facts() for row in rows],
        "rentals": rentals,
        "problem": problem,
    }  # fmt: skip
    text = "\n".join([_points(sweep, plan), "", _results(rows), *_total(rows), *said])
    if problem:
        return CheckFailed(answer(arguments, facts, f"{text}\n\nIt could not be made: {problem}"))
    return answer(arguments, facts, text)


def _rows(plan: SweepPlan, earlier: Earlier, gpus: Gpus, ranks: int | None) -> list[_Row]:
    uses = plan.uses
    rows: dict[str, _Row] = {}
    for cell in plan.cells:
        if cell.how not in ("new", "reused") or cell.key in rows:
            continue
        if cell.artifact is not None:
            rows[cell.key] = _Row(cell, uses[cell.key], f"reused from {beside(cell.artifact.sha256, earlier.given, 8)}")
            continue
        near = nearest(earlier, cell)
        what = f"new; {near.text(earlier.given)}" if near else "new"
        rows[cell.key] = _Row(cell, uses[cell.key], what, *_time(cell, near, gpus, ranks))
    return list(rows.values())


def _time(cell: Cell, near: Nearest | None, gpus: Gpus, ranks: int | None) -> tuple[float | None, str, float | None]:
    """Seconds that a stage takes, where that is known from, and what it costs: computed for GPUs, on CPUs as long as
    the nearest artifact took."""
    (found,) = forecast(cell.point.experiment.profile, gpus, ranks=ranks, only=[cell.stage])
    if found.seconds:
        return found.seconds, f"computed for {found.ranks} x {gpus.kind}", found.dollars
    seconds = near.artifact.manifest.metrics.get("seconds") if near else None
    return (float(seconds), "as the nearest took", None) if isinstance(seconds, (int, float)) else (None, "", None)


def _places(home: Path, plan: SweepPlan, tags: Mapping[str, str]) -> tuple[str | None, list[str], list[dict[str, Any]]]:
    """Why the sweep could not be completed, and what hosts that are rented for it would cost."""
    said: list[str] = []
    rentals: list[dict[str, Any]] = []
    for point in dict.fromkeys(cell.point for cell in plan.new):
        experiment = point.experiment
        names = [cell.stage for cell in plan.new if cell.point is point]
        asked = Plan.of(map(experiment.step, names), experiment, tags, {})
        try:
            places = readiness.places_of(home, asked)
            if not any(place.pool for place in places):
                continue
            made = readiness.made_before(ArtifactStore.open(asked.store), asked)
            for one in prices.of_run(home, asked, places, made):
                said += [f"{point.label}:", *prices.lines(one)]
                rentals.append({"experiment": experiment.name, **prices.machine(one)})
        except UserError as e:
            return str(e), said, rentals
    if rentals:
        total = sum(one["cost_micros"] for one in rentals) / 1e6
        said.append(f"all rented hosts together: about ${total:,.2f}")
    return None, said, rentals


def _points(sweep: Sweep, plan: SweepPlan) -> str:
    rows: list[tuple[str, ...]] = [("point", "experiment", "made", "reused", "new", "shared")]
    for point in sweep.points:
        hows = [cell.how for cell in plan.of(point)]
        counts = (str(hows.count(how)) for how in ("made", "reused", "new", "shared"))
        rows.append((point.label, point.experiment.name, *counts))
    return table(rows, right=(2, 3, 4, 5))


def _results(rows: Sequence[_Row]) -> str:
    if not rows:
        return "Everything is made."
    heads = ("asset", "points", "time", "cost", "what")
    cells = [
        (row.cell.ref, str(row.points), "-" if row.seconds is None else f"{duration(row.seconds)}, {row.basis}",
         "-" if row.dollars is None else f"${row.dollars:.2f}", row.what)
        for row in rows
    ]  # fmt: skip
    return table([heads, *cells], right=(1,))


def _total(rows: Sequence[_Row]) -> list[str]:
    new = [row for row in rows if row.cell.how == "new"]
    if not new:
        return []
    seconds = [row.seconds for row in new if row.seconds is not None]
    dollars = [row.dollars for row in new if row.dollars is not None]
    known = f"about {duration(sum(seconds))} for {len(seconds)} of them" if seconds else "of unknown duration"
    cost = f", about ${sum(dollars):,.2f}" if dollars else ""
    return ["", f"{len(new)} results are made, {known}{cost}; each only once, whatever the number of points"]
