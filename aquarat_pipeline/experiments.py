"""Experiments: chains of the same assets side by side in one store and one UI, each with its own profile.

The main one has no name: its profile is that of `AQUARAT_PROFILE`, and its assets have their plain names. A named
experiment is a file in `DAGSTER_HOME` that says which profile it follows; its assets are called `<experiment>/<asset>`
in Dagster's selections, in the store's refs and on the command line.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from aquarat_core.config import DEFAULT_PROFILE, Profile, load_profile, strict_yaml
from aquarat_core.config.validation import did_you_mean
from aquarat_core.errors import UserError
from aquarat_core.stages.registry import STAGES, used_stages
from aquarat_pipeline.home import dagster_home
from aquarat_pipeline.resources.profile import current_profile
from aquarat_pipeline.tags import EXPERIMENT_TAG
from aquarat_pipeline.workers import RUN_PROFILE

if TYPE_CHECKING:
    import dagster as dg

MAX_NAME = 40
_PLACE = Path("aquarat", "experiments")


class ExperimentError(UserError):
    """An experiment that cannot be added, found or used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A chain of assets: its profile, and its name, which is empty for the main one."""

    profile: Profile
    name: str = ""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of its profile's chain, in the order of the table."""
        return used_stages(self.profile)

    def inputs(self, name: str) -> tuple[str, ...]:
        """The inputs of stage `name` under its profile."""
        stage = STAGES[name]
        return stage.needs(stage.config(self.profile))

    def key(self, asset: str) -> dg.AssetKey:
        """Dagster's key of one of its assets."""
        import dagster as dg

        return dg.AssetKey([self.name, asset] if self.name else [asset])

    def ref(self, asset: str) -> str:
        """The name of one of its assets for users and the store's refs: `rl_checkpoint`, `wide/rl_checkpoint`."""
        return f"{self.name}/{asset}" if self.name else asset

    def step(self, asset: str) -> str:
        """Dagster's name of the step that makes one of its assets; can also be used as a file name."""
        return f"{self.name}__{asset}" if self.name else asset

    def local(self, name: str) -> str:
        """The full name of something that every experiment has: a group, a job, a schedule."""
        return f"{self.name}_{name}" if self.name else name

    def ops(self, run_config: Mapping[str, Any]) -> dict[str, Any]:
        """The parts of a run's config for its stages, by the stages' names."""
        given = run_config.get("ops", {})
        return {name: given[step] for name in STAGES if (step := self.step(name)) in given}

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its runs and steps."""
        return {EXPERIMENT_TAG: self.name} if self.name else {}


def experiment_of(asset: str) -> str:
    """The experiment in an asset's name; empty for the main one."""
    return asset.rpartition("/")[0]


def check_names(assets: Iterable[str]) -> None:
    """Raises `ExperimentError` for names that are not those of assets, alone or after `EXPERIMENT/`."""
    unknown = [name for name in assets if name.rpartition("/")[2] not in STAGES or name.startswith("/")]
    if unknown:
        shown = ", ".join(repr(name) for name in unknown)
        near = did_you_mean(unknown[0].rpartition("/")[2], STAGES)
        raise ExperimentError(f"there is no asset {shown}; {near}there are {', '.join(sorted(STAGES))}")


def experiments() -> list[Experiment]:
    """The main experiment and all named ones; an unusable one is left out, with an error in the log."""
    found = [Experiment(current_profile())]
    for name, followed in sorted(_known().items()):
        try:
            found.append(_loaded(name, followed))
        except UserError as e:
            logging.getLogger("dagster.aquarat").error("the experiment %s is left out: %s", name, e)
    return found


def of_run(names: Iterable[str]) -> Experiment:
    """The experiment that a run belongs to, given the experiments of its assets; the main one's name is empty.

    Raises `ExperimentError` for an unknown experiment, and for more than one, because a run has one profile.
    """
    wanted = sorted(set(names)) or [""]
    if len(wanted) > 1:
        said = ", ".join(name or "the main one" for name in wanted)
        raise ExperimentError(f"a run makes assets of only one experiment, but this one was asked for assets of {said}")
    name = wanted[0]
    if not name:
        return Experiment(load_profile())
    there = _known()
    if name not in there:
        advice = f". To add it: aquarat experiments add {name} --profile PROFILE" if _is_name(name) else ""
        raise ExperimentError(
            f"there is no experiment {name!r}; there are {', '.join(sorted(there)) or 'none'}{advice}"
        )
    return _loaded(name, there[name])


def registered() -> dict[str, str]:
    """The named experiments in `DAGSTER_HOME` whose files can be read, each with its profile's name or file."""
    return {name: found for name, found in _files().items() if isinstance(found, str)}


def damaged() -> dict[str, str]:
    """The errors in the other files, by name."""
    return {name: str(found) for name, found in _files().items() if isinstance(found, ExperimentError)}


def add(name: str, profile: str) -> Experiment:
    """Adds a named experiment with the profile of that name or file. Raises `ExperimentError` or `ConfigError`."""
    if not _is_name(name):
        raise ExperimentError(
            f"{name!r} cannot name an experiment: use small letters, digits and single _ between them, at most "
            f"{MAX_NAME}, starting with a letter, and not the name of an asset"
        )
    if not profile:
        raise ExperimentError("the profile's name or file is empty")
    path = Path(profile).absolute()
    followed = str(path) if path.is_file() else profile
    experiment = Experiment(load_profile(followed), name)
    file = _file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x") as f:
            yaml.safe_dump({"profile": followed}, f, allow_unicode=True)
    except FileExistsError:
        raise ExperimentError(f"the experiment {name} already exists: {file} says which profile it follows") from None
    return experiment


def named_after(profile: Profile) -> Experiment:
    """The experiment with the profile's own name, created if it does not exist; it follows the file or name in
    `AQUARAT_PROFILE`. Raises `ExperimentError` if an experiment with that name follows another profile."""
    name = re.sub("[^a-z0-9]+", "_", profile.name.lower()).strip("_")[:MAX_NAME].strip("_")
    name = name if name[:1].isalpha() else f"profile_{name}"
    if name not in registered():
        return add(name, os.environ.get("AQUARAT_PROFILE") or DEFAULT_PROFILE)
    found = of_run([name])
    if found.profile.sha256 != profile.sha256:
        raise ExperimentError(
            f"the experiment {name} follows another profile, {registered()[name]}: give this profile another name in "
            f"its file, or remove the experiment: aquarat experiments remove {name}"
        )
    return found


def remove(name: str) -> None:
    """Removes a named experiment; its artifacts, refs and Dagster's records stay. Raises `ExperimentError`."""
    _find(name).unlink()


def _known() -> dict[str, str | ExperimentError]:
    """The profile or error of each experiment's file. In a worker that the run launcher started, the run's experiment
    has the profile with which the run started instead."""
    own, _, kept = os.environ.get(RUN_PROFILE, "").partition("=")
    return _files() | ({own: kept} if _is_name(own) else {})


def _loaded(name: str, followed: str | ExperimentError) -> Experiment:
    """The experiment in a file. Raises the error of a damaged file, or `ConfigError` for the profile."""
    if isinstance(followed, ExperimentError):
        raise followed
    return Experiment(load_profile(followed), name)


def _find(name: str) -> Path:
    """The file of a named experiment, damaged or not. Raises `ExperimentError` if there is none."""
    path = _file(name)
    if not _is_name(name) or not os.path.lexists(path):
        raise ExperimentError(f"there is no experiment {name!r}: `aquarat experiments` lists them")
    if path.is_dir() and not path.is_symlink():
        raise ExperimentError(f"{path} is a folder: remove it yourself")
    return path


def _files() -> dict[str, str | ExperimentError]:
    """The profile that each file names, or the error of the file."""
    folder = _folder()
    found: dict[str, str | ExperimentError] = {}
    for path in sorted(folder.glob("*.yaml")) if folder else ():
        try:
            found[path.stem] = _profile_in(path)
        except ExperimentError as e:
            if os.path.lexists(path):  # otherwise another process has just removed the experiment
                found[path.stem] = e
    return found


def _is_name(name: str) -> bool:
    plain = re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
    return plain is not None and len(name) <= MAX_NAME and name not in STAGES


def _profile_in(path: Path) -> str:
    if not _is_name(path.stem):
        raise ExperimentError(f"{path}: this cannot be the name of an experiment: rename or remove the file")
    if not path.is_file():
        raise ExperimentError(f"{path} is not a regular file: `aquarat experiments remove {path.stem}` removes it")
    try:
        held: Any = strict_yaml.load(path)
    except (OSError, strict_yaml.YamlError) as e:
        raise ExperimentError(f"an experiment cannot be read: {e}") from None
    match held:
        case {"profile": str(profile)} if profile and len(held) == 1:
            return profile
        case _:
            raise ExperimentError(f'{path} must only say which profile the experiment follows: `profile: "NAME"`')


def _file(name: str) -> Path:
    return dagster_home() / _PLACE / f"{name}.yaml"


def _folder() -> Path | None:
    home = os.environ.get("DAGSTER_HOME")
    return Path(home) / _PLACE if home else None
