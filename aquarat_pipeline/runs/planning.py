"""Which assets a command would make, which it would leave as they are, and why."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import dagster as dg

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.artifacts.store import asset_of
from aquarat_core.config import override
from aquarat_core.config.overrides import overrides
from aquarat_core.settings import store_uri
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline import experiments
from aquarat_pipeline.assets.history import Fresh, adopted, fresh, standing
from aquarat_pipeline.assets.needed import needed_inputs
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.runs.submit import config_of


@dataclass(frozen=True, slots=True)
class Planned:
    """The assets that a command is asked for, in the order of the chain, by their stages."""

    experiment: Experiment
    """With the profile as it is, without the fields that were set."""
    names: tuple[str, ...]
    kept: dict[str, Fresh]
    """Those that are up to date and so left as they are."""
    why: dict[str, str]
    """Why the others are made, each as half a sentence about the asset."""
    fields: tuple[str, ...]
    """The set fields that those read which are made."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """The assets that are made."""
        return tuple(self.why)


def planned(
    instance: dg.DagsterInstance,
    assets: Sequence[str],
    *,
    with_parents: bool = False,
    again: bool = False,
    fields: Sequence[str] = (),
) -> Planned:
    """The plan for assets of one experiment. `fields` are those with other values, such as `rl_checkpoint.steps=20`.

    Raises `ExperimentError` for an unknown asset, `LaunchError` for a field that nothing reads, and `ConfigError` for
    an invalid value.
    """
    experiment = experiments.of_run(experiments.experiment_of(name) for name in assets)
    changed = replace(experiment, profile=override(experiment.profile, dict(overrides(experiment.profile, fields))))
    store = ArtifactStore.open(store_uri())
    given: Collection[str] = () if again else adopted(instance, store, experiment)
    names = _names(instance, assets, with_parents, changed, given)
    config_of(experiment, fields, map(experiment.step, names))
    kept = {} if again else fresh(instance, store, changed, names)
    why: dict[str, str] = {}
    for name in names:
        if name not in kept:
            why[name] = "is asked for again" if again else _why(instance, store, changed, name, why)
    read = {STAGES[name].section for name in why}
    used = tuple(text for text in fields if text.partition(".")[0].strip() in read)
    return Planned(experiment, tuple(names), kept, why, used)


def _why(
    instance: dg.DagsterInstance, store: ArtifactStore, experiment: Experiment, name: str, made: Collection[str]
) -> str:
    """Why the asset is not fresh, when the assets `made` are made before it."""
    stage = STAGES[name]
    section = stage.config(experiment.profile)
    found = standing(instance, store, experiment, stage, section)
    if isinstance(found, str):
        return found
    remade = [one for one in needed_inputs(instance, experiment, stage, section, made) if one in made]
    return f"is made from {', '.join(remade)}"


def _names(
    instance: dg.DagsterInstance,
    assets: Sequence[str],
    with_parents: bool,
    experiment: Experiment,
    given: Collection[str],
) -> list[str]:
    """The assets' stages in the order of the chain. Stages that are `given` need no inputs."""
    experiments.check_names(assets)
    wanted = set(map(asset_of, assets))
    for name in reversed(STAGES) if with_parents else ():
        if name in wanted and name not in given:
            stage = STAGES[name]
            remade = STAGES.keys() - set(given)
            wanted.update(needed_inputs(instance, experiment, stage, stage.config(experiment.profile), remade))
    return [name for name in STAGES if name in wanted]
