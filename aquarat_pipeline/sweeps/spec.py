"""`sweep.yaml`: fields, values and seeds over a profile, and the points that they make.

Each point is an ordinary experiment with a profile of its own, named after the sweep and the profile's content: another
value is another experiment, and points stay what they are when values are added to the file.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import yaml
from pydantic import Field, PositiveFloat, PositiveInt

from aquarat_core.config import ConfigError, Profile, load_profile, override, strict_yaml
from aquarat_core.config.fields import StrictModel
from aquarat_core.config.overrides import overrides
from aquarat_core.config.profile import asked_profile, layers
from aquarat_core.config.validation import did_you_mean, validate
from aquarat_core.errors import UserError
from aquarat_core.evaluation.statistics import Correction
from aquarat_core.plain_text import one_line
from aquarat_core.stages.registry import STAGES, used_stages
from aquarat_pipeline.experiments import Experiment

MOST_POINTS = 500
"""The highest `max_points`: every point is a chain of assets in Dagster."""
MAX_NAME = 30
_DIGITS = 8
RATIO = "base_checkpoint.tokens_per_parameter"
DEPTH = "base_checkpoint.model.depth"

Settings = tuple[tuple[str, str], ...]
"""Fields with their values as text."""


class SweepError(UserError):
    """A sweep that cannot be read, planned or run; the message says why and what to do."""


class Seeds(StrictModel):
    """Repetitions of every point."""

    of: Annotated[tuple[str, ...], Field(min_length=1)]
    """The sections whose `seed` is set, such as `rl_checkpoint`."""
    values: Annotated[tuple[int, ...], Field(min_length=1)]
    """Each value is one repetition."""


class Ladder(StrictModel):
    """Models of growing size."""

    depths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Depths of the model. A profile with a depth derives batch, rates and data from each."""
    tokens_per_parameter: tuple[PositiveFloat, ...] = ()
    """Training tokens per weight; several at each depth tell the effects of size and data apart."""


class SweepFile(StrictModel):
    """The contents of `sweep.yaml`."""

    name: str = ""
    """Begins the names of the sweep's experiments; by default the file's name."""
    profile: str | None = None
    """A profile's name, or its file relative to this one; by default that of `AQUARAT_PROFILE`."""
    fields: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict[str, Any])
    """Fields of the profile, each with its values; all combinations are made."""
    seeds: Seeds | None = None
    ladder: Ladder | None = None
    make: Annotated[tuple[str, ...], Field(min_length=1)] = ("rl_eval_report",)
    """The assets to make for every point, with everything that they are made from."""
    reference: dict[str, Any] = Field(default_factory=dict[str, Any])
    """The values of the point with which the others are compared; by default the first of each field."""
    correction: Correction = "holm"
    """For many comparisons: `holm` keeps the chance of any false finding at 5 %, `benjamini-hochberg` the share of
    false ones among the findings."""
    max_points: Annotated[int, Field(ge=1, le=MOST_POINTS)] = 32
    """A sweep of more points is refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One chain of a sweep."""

    experiment: Experiment
    settings: Settings
    """The swept fields with their values, without the seed."""
    seed: int | None
    names: tuple[str, ...]
    """The stages to make, in the order of the chain."""

    @property
    def label(self) -> str:
        """The point for people: `rl_checkpoint.steps=20, seed 3`."""
        seed = [] if self.seed is None else [f"seed {self.seed}"]
        return ", ".join([*(f"{field}={value}" for field, value in self.settings), *seed]) or "the profile itself"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep that can be planned: its file's settings, and its points."""

    name: str
    file: SweepFile
    points: tuple[Point, ...]

    @property
    def reference(self) -> Settings:
        """The settings of the point that the others are compared with."""
        wanted = {field: _text(field, value) for field, value in self.file.reference.items()}
        for point in self.points:
            settings = dict(point.settings)
            if all(field in settings and _same(settings[field], value) for field, value in wanted.items()):
                return point.settings
        said = ", ".join(f"{field}={value}" for field, value in wanted.items())
        raise SweepError(f"reference: no point of the sweep {self.name} has {said}")


def read_sweep(path: Path) -> Sweep:
    """The sweep in a file. Raises `SweepError` or `ConfigError` for one that cannot be run."""
    try:
        raw: Any = strict_yaml.load(path)
    except (OSError, strict_yaml.YamlError) as e:
        raise SweepError(f"a sweep cannot be read: {e}") from None
    if not isinstance(raw, dict):
        raise SweepError(f"{path} must be a mapping with `fields`, `seeds` or `ladder`")
    file = validate(SweepFile, raw, f"the sweep {path}")
    name = file.name or re.sub("[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    if not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > MAX_NAME:
        raise SweepError(
            f"{path}: {name!r} cannot name a sweep: use small letters, digits and single _ between them, at most "
            f"{MAX_NAME}, starting with a letter"
        )
    _check_size(path, file)
    try:
        sweep = Sweep(name, file, tuple(_points(path, name, file)))
    except ConfigError as e:
        raise SweepError(f"{path}: {e}") from None
    _check_distinct(path, sweep)
    _ = sweep.reference  # raises an error for one that is not among the points
    return sweep


def _check_size(path: Path, file: SweepFile) -> None:
    """Raises `SweepError` for too many points, before any of them is made."""
    ladder = len(file.ladder.depths) * max(1, len(file.ladder.tokens_per_parameter)) if file.ladder else 1
    seeds = len(file.seeds.values) if file.seeds else 1
    points = math.prod(len(values) for values in file.fields.values()) * ladder * seeds
    if points > file.max_points:
        raise SweepError(
            f"{path} describes {points:,} points, more than max_points {file.max_points}: leave values out, or raise "
            f"max_points (at most {MOST_POINTS})"
        )


def _check_distinct(path: Path, sweep: Sweep) -> None:
    seen: dict[str, Point] = {}
    for point in sweep.points:
        if (other := seen.setdefault(point.experiment.profile.sha256, point)) is not point:
            raise SweepError(f"{path}: the same point twice: {other.label} and {point.label}")


def _points(path: Path, name: str, file: SweepFile) -> Iterator[Point]:
    for depth, ratio in _rungs(file.ladder):
        profile = _base(path, file, depth, ratio)
        rung = [(field, json.dumps(value)) for field, value in ((DEPTH, depth), (RATIO, ratio)) if value is not None]
        for values in itertools.product(*file.fields.values()):
            chosen = dict(zip(file.fields, values, strict=True))
            settings = (*rung, *((field, _text(field, value)) for field, value in chosen.items()))
            for seed in file.seeds.values if file.seeds else (None,):
                seeds = {f"{section}.seed": seed for section in file.seeds.of} if file.seeds else {}
                yield _point(name, file, profile, {**chosen, **seeds}, settings, seed)


def _rungs(ladder: Ladder | None) -> Iterator[tuple[int | None, float | None]]:
    if ladder is None:
        yield None, None
        return
    yield from itertools.product(ladder.depths, ladder.tokens_per_parameter or (None,))


def _point(
    name: str, file: SweepFile, base: Profile, values: Mapping[str, Any], settings: Settings, seed: int | None
) -> Point:
    given = [f"{field}={_json(field, value)}" for field, value in values.items()]
    profile = override(base, dict(overrides(base, given)))
    names = _needed(profile, file.make)
    for field in values:
        section = field.partition(".")[0]
        if section not in {STAGES[stage].section for stage in names}:
            raise ConfigError(f"{field} is set, but nothing that the sweep makes ({', '.join(file.make)}) reads it")
    return Point(Experiment(profile, f"{name}_{profile.sha256[:_DIGITS]}"), settings, seed, names)


def _base(path: Path, file: SweepFile, depth: int | None, ratio: float | None) -> Profile:
    """The profile before fields are set: with what a rung of the ladder derives from it."""
    followed = asked_profile(file.profile)
    for place in (path.parent / followed, Path(followed)):
        if place.is_file():
            followed = str(place.resolve())
            break
    profile = load_profile(followed)
    if depth is None:
        return profile
    base: dict[str, Any] = {} if ratio is None else {"tokens_per_parameter": ratio}
    if not any("depth" in fields for _, fields in layers(followed)):
        return override(profile, {"base_checkpoint": {"model": {"depth": depth}, **base}})
    with TemporaryDirectory() as folder:
        # What is derived from a depth follows the values in the profile's file, so they have to be in one.
        rung = Path(folder, "rung.yaml")
        fields = {"extends": followed, "name": profile.name, "depth": depth, "base_checkpoint": base}
        rung.write_text(yaml.safe_dump(fields))
        return load_profile(str(rung))


def _needed(profile: Profile, make: tuple[str, ...]) -> tuple[str, ...]:
    """The stages to make, with all of their inputs. Raises `ConfigError` for a name that is no stage of the chain."""
    chain = used_stages(profile)
    for asset in make:
        if asset not in chain:
            raise ConfigError(f"make: there is no asset {asset!r}; {did_you_mean(asset, chain)}there are "
                              f"{', '.join(chain)}")  # fmt: skip
    wanted = set(make)
    for name in reversed(STAGES):
        if name in wanted:
            wanted.update(STAGES[name].needs(STAGES[name].config(profile)))
    return tuple(name for name in STAGES if name in wanted)


def _text(field: str, value: Any) -> str:
    return value if isinstance(value, str) else _json(field, value)


def _json(field: str, value: Any) -> str:
    """Raises `SweepError` for a value of a kind that only YAML has."""
    try:
        return json.dumps(value)
    except TypeError:
        raise SweepError(
            f"{field}: {one_line(str(value))} is no value of a field: put a date, or what else YAML reads as something "
            "other than a text, in quotes"
        ) from None


def _same(one: str, other: str) -> bool:
    """Whether two texts stand for the same value, such as `8` and `8.0`, or `0.1` and `1e-1`."""
    try:
        return one == other or json.loads(one) == json.loads(other)
    except ValueError:
        return False
