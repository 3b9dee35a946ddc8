"""Experiments: chains of the same assets side by side in one store and one UI, each under a profile of its own.

The main one has no name: its profile is that of `AQUARAT_PROFILE`, and its assets are called by their bare names. A
named experiment is a file in `DAGSTER_HOME` that says which profile it follows; its assets are `<experiment>/<asset>`,
in Dagster's selections, in the store's refs and on the command line alike.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from aquarat_core.config import DEFAULT_PROFILE, Profile, load_profile, strict_yaml
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.launching.tags import EXPERIMENT_TAG
from aquarat_pipeline.launching.workers import RUN_PROFILE
from aquarat_pipeline.resources.profile import current_profile

MOST_NAME = 40


class ExperimentError(ValueError):
    """An experiment that cannot be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One chain of assets: its profile, and its name, which is empty for the main one."""

    profile: Profile
    name: str = ""

    def key(self, asset: str) -> dg.AssetKey:
        """Dagster's key of one of its assets."""
        return dg.AssetKey([self.name, asset] if self.name else [asset])

    def ref(self, asset: str) -> str:
        """What users and the store's refs call one of its assets: `rl_checkpoint`, `wide/rl_checkpoint`."""
        return self.key(asset).to_user_string()

    def step(self, asset: str) -> str:
        """Dagster's name of the step that makes one of its assets, which may be a file's name too."""
        return self.key(asset).to_python_identifier()

    def local(self, name: str) -> str:
        """`name` for what is one of a kind in every experiment: a group, a job, a schedule."""
        return f"{self.name}_{name}" if self.name else name

    def ops(self, run_config: Mapping[str, Any]) -> dict[str, Any]:
        """What a run's config says of its stages' steps, by the stages' names."""
        given = run_config.get("ops", {})
        return {name: given[step] for name in STAGES if (step := self.step(name)) in given}

    @property
    def tags(self) -> dict[str, str]:
        """What its runs and steps carry."""
        return {EXPERIMENT_TAG: self.name} if self.name else {}


def experiment_of(asset: str) -> str:
    """The experiment's name in an asset's, empty in a bare one."""
    return asset.rpartition("/")[0]


def experiments() -> list[Experiment]:
    """The main experiment and all named ones; one whose profile cannot be used is left out, loudly."""
    found = [Experiment(current_profile())]
    for name, profile in sorted(known().items()):
        try:
            found.append(Experiment(load_profile(profile), name))
        except ValueError as e:
            logging.getLogger("dagster.aquarat").error("the experiment %s is left out: %s", name, e)
    return found


def of_run(names: Iterable[str]) -> Experiment:
    """The one experiment that a run is of, by the names that its assets give; the main one's is empty.

    Raises `ExperimentError` for an unknown one, and for more than one: a run has one profile.
    """
    wanted = sorted(set(names)) or [""]
    if len(wanted) > 1:
        said = ", ".join(name or "the main one" for name in wanted)
        raise ExperimentError(f"one run makes assets of one experiment, and this one is asked for those of {said}")
    name, there = wanted[0], known()
    if not name:
        return Experiment(load_profile())
    if name not in there:
        raise ExperimentError(
            f"there is no experiment {name}; there are {', '.join(sorted(there)) or 'none'}. To add it: "
            f"aquarat experiments add {name} --profile PROFILE"
        )
    return Experiment(load_profile(there[name]), name)


def known() -> dict[str, str]:
    """The named experiments, each with its profile's name or file.

    A worker that the run launcher started has its run's experiment under the profile that the run began with.
    """
    own, _, kept = os.environ.get(RUN_PROFILE, "").partition("=")
    return registered() | ({own: kept} if _is_name(own) else {})


def registered() -> dict[str, str]:
    """The named experiments of `DAGSTER_HOME`, each with its profile's name or file. Raises `ExperimentError`."""
    folder = _folder()
    if folder is None or not folder.is_dir():
        return {}
    return {path.stem: _profile_in(path) for path in sorted(folder.glob("*.yaml"))}


def add(name: str, profile: str) -> Experiment:
    """Makes a named experiment under the profile of that name or file. Raises `ExperimentError` or `ConfigError`."""
    if not _is_name(name):
        raise ExperimentError(
            f"{name!r} cannot name an experiment: small letters, digits and single _ between them, {MOST_NAME} at "
            "most, beginning with a letter, and no asset's name"
        )
    path = Path(profile).absolute()
    followed = str(path) if path.is_file() else profile
    experiment = Experiment(load_profile(followed), name)
    file = _file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x") as f:
            f.write(f'profile: "{followed}"\n')
    except FileExistsError:
        raise ExperimentError(f"there is an experiment {name} already: {file} says which profile it follows") from None
    return experiment


def named_after(profile: Profile) -> Experiment:
    """The experiment with the profile's own name, made if there is none; it follows the file or name that
    `AQUARAT_PROFILE` gives. Raises `ExperimentError` where an experiment of that name follows another profile."""
    name = re.sub("[^a-z0-9]+", "_", profile.name.lower()).strip("_")[:MOST_NAME].strip("_")
    name = name if name[:1].isalpha() else f"profile_{name}"
    if name not in registered():
        return add(name, os.environ.get("AQUARAT_PROFILE") or DEFAULT_PROFILE)
    found = of_run([name])
    if found.profile.sha256 != profile.sha256:
        raise ExperimentError(
            f"the experiment {name} follows the profile in {registered()[name]}, which is not this one: give this one "
            f"another name in its file, or remove that: aquarat experiments remove {name}"
        )
    return found


def remove(name: str) -> None:
    """Forgets a named experiment; its artifacts, refs and Dagster's records stay. Raises `ExperimentError`."""
    find_registered(name).unlink()


def find_registered(name: str) -> Path:
    """The file of a named experiment. Raises `ExperimentError` where there is none."""
    if name not in registered():
        raise ExperimentError(f"there is no experiment {name}: `aquarat experiments` lists them")
    return _file(name)


def _is_name(name: str) -> bool:
    plain = re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
    return plain is not None and len(name) <= MOST_NAME and name not in STAGES


def _profile_in(path: Path) -> str:
    try:
        held = strict_yaml.load(path)
    except (OSError, strict_yaml.YamlError) as e:
        raise ExperimentError(f"an experiment cannot be read: {e}") from None
    if not isinstance(held, dict) or not isinstance(held.get("profile"), str) or len(held) != 1:
        raise ExperimentError(f'{path} must say one thing, which profile the experiment follows: `profile: "NAME"`')
    return held["profile"]


def _file(name: str) -> Path:
    folder = _folder()
    if folder is None:
        raise ExperimentError("DAGSTER_HOME is not set: run this inside `./run shell`")
    return folder / f"{name}.yaml"


def _folder() -> Path | None:
    home = os.environ.get("DAGSTER_HOME")
    return Path(home) / "aquarat" / "experiments" if home else None
