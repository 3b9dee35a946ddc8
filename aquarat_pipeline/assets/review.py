"""Which assets of an experiment a re-evaluation makes, and why it skips the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import dagster as dg
from pydantic import BaseModel

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.durations import ago
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.assets.history import Fresh, standing
from aquarat_pipeline.assets.needed import needed_inputs
from aquarat_pipeline.events import latest_materialization, manifest_of
from aquarat_pipeline.experiments import Experiment


@dataclass(frozen=True, slots=True)
class Review:
    """Assets grouped by whether they need to be made, each group in the order of the chain."""

    fresh: dict[str, Fresh] = field(default_factory=dict[str, Fresh])
    outdated: dict[str, str] = field(default_factory=dict[str, str])
    """Assets to make, each with the reason as half a sentence."""
    impossible: dict[str, str] = field(default_factory=dict[str, str])
    """Assets with an input that no run has made, each with the reason as half a sentence."""

    @property
    def skipped(self) -> dict[str, str]:
        """Assets not to make, each with the reason as half a sentence."""
        kept = {
            name: f"is {'adopted' if held.adopted else 'fresh'}, made {ago(held.made)}"
            for name, held in self.fresh.items()
        }
        return {**kept, **self.impossible}


def review(
    instance: dg.DagsterInstance,
    store: ArtifactStore,
    experiment: Experiment,
    names: Iterable[str],
    sections: Mapping[str, BaseModel | None] | None = None,
) -> Review:
    """Sorts the named assets by what a run has to make. `sections` overrides configs of the profile."""
    wanted, found = set(names), Review()
    # The table lists every stage after its inputs.
    for name in (name for name in STAGES if name in wanted):
        stage = STAGES[name]
        section = (sections or {}).get(name, stage.config(experiment.profile))
        needed = needed_inputs(instance, experiment, stage, section, found.outdated)
        if lacking := [x for x in needed if x not in found.outdated and not _is_made(instance, experiment.key(x))]:
            verb = "was" if len(lacking) == 1 else "were"
            found.impossible[name] = f"needs {_listed(map(experiment.ref, lacking))}, which {verb} never made"
        elif again := [experiment.ref(x) for x in needed if x in found.outdated]:
            found.outdated[name] = f"is made from {_listed(again)}, which will be made again"
        else:
            match standing(instance, store, experiment, stage, section):
                case Fresh() as held:
                    found.fresh[name] = held
                case why:
                    found.outdated[name] = why
    return found


def sentences(experiment: Experiment, reasons: Mapping[str, str]) -> str:
    """One half sentence for each asset: `base_eval_report is fresh, made 2 h ago; rl_eval_report needs ...`."""
    return "; ".join(f"{experiment.ref(name)} {why}" for name, why in reasons.items())


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _is_made(instance: dg.DagsterInstance, key: dg.AssetKey) -> bool:
    """Whether a run has made the asset. An event that was reported by hand names no manifest and cannot be an input."""
    made = latest_materialization(instance, key)
    return made is not None and manifest_of(made) is not None
