"""Which stages of a sweep exist, which the store has from another chain, and which are made, each once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from aquarat_core.artifacts import Artifact
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.assets.history import Fresh, standing
from aquarat_pipeline.assets.reuse import MADE_NOW, Earlier, Nearest
from aquarat_pipeline.sweeps.spec import Point

How = Literal["made", "reused", "new", "shared"]
_NEW = "new:"
"""Begins the key of a result that does not exist yet; otherwise the key is a data version."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One stage of one point."""

    point: Point
    stage: str
    key: str
    """The same for all points that would have the same result."""
    inputs: dict[str, str]
    """Keys of its inputs."""
    how: How
    """`made`: the chain has it. `reused`: the store has it from another chain. `new`: it is made for this point.
    `shared`: it is made for another point of the sweep first."""
    artifact: Artifact | None = None
    maker: Point | None = None
    """For which point it is made, if it does not exist."""

    @property
    def ref(self) -> str:
        return self.point.experiment.ref(self.stage)


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """Every stage of every point, in the order of points and chain."""

    cells: tuple[Cell, ...]

    def of(self, point: Point) -> list[Cell]:
        """The stages of a point."""
        return [cell for cell in self.cells if cell.point is point]

    def missing(self, point: Point) -> list[Cell]:
        """Those of its stages whose result does not exist yet."""
        return [cell for cell in self.of(point) if cell.how in ("new", "shared")]

    @property
    def new(self) -> list[Cell]:
        """What has to be made, each result once."""
        return [cell for cell in self.cells if cell.how == "new"]

    @property
    def uses(self) -> Counter[str]:
        """By key, the number of points that need that result."""
        return Counter(cell.key for cell in self.cells)


def planned(instance: dg.DagsterInstance, earlier: Earlier, points: Sequence[Point]) -> SweepPlan:
    """The plan of a sweep as the store and Dagster are now; changes nothing."""
    makers: dict[str, Point] = {}
    return SweepPlan(tuple(cell for point in points for cell in _cells(instance, earlier, point, makers)))


def _cells(instance: dg.DagsterInstance, earlier: Earlier, point: Point, makers: dict[str, Point]) -> Iterator[Cell]:
    experiment, keys = point.experiment, dict[str, str]()
    for name in point.names:
        stage = STAGES[name]
        section = stage.config(experiment.profile)
        inputs = {parent: keys[parent] for parent in stage.needs(section)}
        exist = not any(key.startswith(_NEW) for key in inputs.values())
        held = standing(instance, earlier.store, experiment, stage, section) if exist else None
        if isinstance(held, Fresh):
            cell = Cell(point, name, held.artifact.data_version, inputs, "made", held.artifact)
        elif exist and (same := earlier.same(experiment, stage, section, inputs)):
            cell = Cell(point, name, same.data_version, inputs, "reused", same)
        else:
            recipe = json.dumps([name, code_version(stage, section), sorted(inputs.items())])
            key = _NEW + hashlib.sha256(recipe.encode()).hexdigest()
            maker = makers.setdefault(key, point)
            cell = Cell(point, name, key, inputs, "new" if maker is point else "shared", maker=maker)
        keys[name] = cell.key
        yield cell


def nearest(earlier: Earlier, cell: Cell) -> Nearest | None:
    """The artifact that comes nearest to a result that has to be made; None if there is none."""
    stage = STAGES[cell.stage]
    inputs = {name: MADE_NOW if key.startswith(_NEW) else key for name, key in cell.inputs.items()}
    section = stage.config(cell.point.experiment.profile)
    return earlier.nearest(cell.point.experiment, stage, section, inputs)


@dataclass(frozen=True, slots=True)
class Launch:
    """The stages of one point that one run makes."""

    point: Point
    stages: tuple[str, ...]


def launches(plan: SweepPlan, busy: set[str], blocked: set[str], occupied: set[str]) -> list[Launch]:
    """What can be started now. Results that several points need are made first, so that the others need not wait for
    the rest of a chain, and none is made twice.

    `busy` are keys of results that running runs make, `blocked` keys that cannot be made because something failed, and
    `occupied` the experiments that have a run.
    """
    busy, found, uses = set(busy), list[Launch](), plan.uses
    for point in dict.fromkeys(cell.point for cell in plan.cells):
        if point.experiment.name in occupied:
            continue
        ready, waiting = list[Cell](), set[str]()
        for cell in plan.missing(point):
            if cell.key in busy | blocked or waiting & set(cell.inputs.values()):
                waiting.add(cell.key)
            else:
                ready.append(cell)
        common = [cell for cell in ready if uses[cell.key] > 1]
        chosen = common or ready
        if chosen:
            busy |= {cell.key for cell in chosen}
            found.append(Launch(point, tuple(cell.stage for cell in chosen)))
    return found
