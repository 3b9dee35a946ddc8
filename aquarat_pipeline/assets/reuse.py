"""What earlier runs have made: an artifact that a stage would make again bit for bit, or the one that comes nearest.

Candidates are the latest artifacts of all experiments in the store, those with a name, and what this Dagster instance
has recorded for the asset. Nothing else is searched, so that a launch takes time for the experiments and names that
there are, but not for every artifact that was ever made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import dagster as dg
from pydantic import BaseModel, ValidationError

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, Manifest, StoreError
from aquarat_core.artifacts.names import beside, names
from aquarat_core.artifacts.records import Ref
from aquarat_core.artifacts.survey import read_artifacts, refs
from aquarat_core.config import with_current_names
from aquarat_core.maintenance.diff import flat
from aquarat_core.plain_text import one_line
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.stage import Stage
from aquarat_pipeline.assets.history import LOOKED_AT, latest_data_version
from aquarat_pipeline.assets.needed import needed_inputs
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.events import manifest_of
from aquarat_pipeline.experiments import Experiment

SHOWN = 3
"""Differing fields that a line names."""
_WIDEST = 40
"""Characters of a value that a line shows."""
MADE_NOW = None
"""In place of an input's data version, if the same run makes the input."""

Inputs = Mapping[str, str | None]
"""The data version of each input of a stage; `MADE_NOW` for one that is made first."""


class Nearest(NamedTuple):
    """The artifact that comes nearest to what a stage would make."""

    artifact: Artifact
    differences: list[str]

    def text(self, given: Mapping[str, list[str]]) -> str:
        """Which it is and what differs, as a clause. `given` are the names of artifacts by hash."""
        which, found = beside(self.artifact.sha256, given, 8), self.differences
        if not found:
            return f"{which} has the same settings, code and inputs"
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"nearest is {which}, which differs in {', '.join(found[:SHOWN])}{more}"


@dataclass(slots=True)
class Earlier:
    """The artifacts of a store that could be used again. Manifests never change, so each is read once."""

    instance: dg.DagsterInstance
    store: ArtifactStore
    _read: dict[str, Artifact] = field(default_factory=dict[str, Artifact])
    _listed: tuple[dict[str, set[str]], dict[str, list[str]]] | None = None

    def forget(self) -> None:
        """Has the store's refs and names listed again."""
        self._listed = None

    @property
    def given(self) -> dict[str, list[str]]:
        """The names that people have given to artifacts, by hash."""
        return self._lists()[1]

    def of(self, experiment: Experiment, asset: str) -> list[Artifact]:
        """The candidates for an asset of an experiment, the newest first. An adopted artifact is none, because nobody
        made it by the stage's settings."""
        hashes = set(self._lists()[0].get(asset, ()))
        for key in {experiment.key(asset), dg.AssetKey([asset])}:
            for record in self.instance.fetch_materializations(key, limit=LOOKED_AT).records:
                made = record.asset_materialization
                if made is not None and (sha256 := manifest_of(made)):
                    hashes.add(sha256)
        for sha256, found in read_artifacts(self.store, hashes - self._read.keys()).items():
            if isinstance(found, Artifact):
                self._read[sha256] = found
        there = [self._read[sha256] for sha256 in hashes if sha256 in self._read]
        fitting = [a for a in there if a.asset == asset and a.manifest.adopted_from is None]
        return sorted(fitting, key=lambda a: (a.manifest.created, a.sha256), reverse=True)

    def same(
        self, experiment: Experiment, stage: Stage, section: BaseModel | None, inputs: Mapping[str, str]
    ) -> Artifact | None:
        """The newest artifact that the stage would make again: by the same code and config, from the same data."""
        version = code_version(stage, section)
        for artifact in self.of(experiment, stage.name):
            manifest = artifact.manifest
            if manifest.code.version == version and _versions(manifest) == inputs and artifact.is_complete():
                return artifact
        return None

    def nearest(
        self, experiment: Experiment, stage: Stage, section: BaseModel | None, inputs: Inputs
    ) -> Nearest | None:
        """The artifact with the fewest differences from what the stage would make; the newest of several. None if there
        is no candidate."""
        found = [
            Nearest(artifact, differences(artifact.manifest, stage, section, inputs))
            for artifact in self.of(experiment, stage.name)
        ]
        return min(found, key=lambda one: len(one.differences)) if found else None

    def _lists(self) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
        """The hashes of each asset that the store has a ref or a name for, and the names by hash."""
        if self._listed is None:
            hashes, given = dict[str, set[str]](), dict[str, list[str]]()
            named = names(self.store)
            for ref in (*refs(self.store).values(), *named.values()):
                if isinstance(ref, Ref):
                    hashes.setdefault(ref.asset, set()).add(ref.manifest_sha256)
            for name, ref in named.items():
                if isinstance(ref, Ref):
                    given.setdefault(ref.manifest_sha256, []).append(name)
            self._listed = hashes, given
        return self._listed


def differences(manifest: Manifest, stage: Stage, section: BaseModel | None, inputs: Inputs) -> list[str]:
    """What differs between an artifact and what its stage would make: fields with both values, code and inputs."""
    theirs = with_current_names(type(section), manifest.config, warn=False) if section else {}
    found = _fields(section, theirs)
    if _code_differs(manifest, stage, section, theirs):
        found.append("the code")
    before = _versions(manifest)
    for name, version in inputs.items():
        if name not in before:
            found.append(f"{name} (not read then)")
        elif version is MADE_NOW:
            found.append(f"{name} (made anew)")
        elif version != before[name]:
            found.append(f"{name} (other data)")
    return found + [f"{name} (no longer read)" for name in before if name not in inputs]


def lines(instance: dg.DagsterInstance, plan: Plan) -> Iterator[str]:
    """One line for each stage of a run that an earlier artifact comes near to: which one, and what differs.

    Nothing about a stage that was never made, and nothing at all if the store cannot be read: other checks say so.
    """
    with suppress(ArtifactError, StoreError):
        earlier, experiment = Earlier(instance, ArtifactStore.open(plan.store)), plan.experiment
        made = {stage.name for stage in plan.stages}
        for stage in plan.stages:
            section = plan.sections[stage.name]
            needed = needed_inputs(instance, experiment, stage, section, made)
            inputs = {
                name: MADE_NOW if name in made else latest_data_version(instance, experiment.key(name))
                for name in needed
            }
            nearest = earlier.nearest(experiment, stage, section, inputs)
            if nearest is not None:
                joint = "; " if nearest.differences else ", though "
                yield f"not reused: {experiment.ref(stage.name)}{joint}{nearest.text(earlier.given)}"


def _versions(manifest: Manifest) -> dict[str, str]:
    return {parent.asset: parent.data_version for parent in manifest.parents}


def _fields(section: BaseModel | None, theirs: Mapping[str, Any]) -> list[str]:
    """The fields that differ, as `steps 20 -> 40`: before, and now."""
    ours = flat(section.model_dump(mode="json")) if section else {}
    before = flat(theirs)
    return [
        f"{name} {_value(before, name)} -> {_value(ours, name)}"
        for name in sorted(ours.keys() | before.keys())
        if ours.get(name) != before.get(name)
    ]


def _value(held: Mapping[str, Any], name: str) -> str:
    text = one_line(str(held[name])) if name in held else "none"
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _code_differs(manifest: Manifest, stage: Stage, section: BaseModel | None, theirs: Mapping[str, Any]) -> bool:
    """Whether today's code would give the artifact another code version, under the artifact's own config."""
    try:
        config = type(section).model_validate(theirs) if section else None
    except ValidationError:
        return True  # written by code whose settings had another form
    return manifest.code.version != code_version(stage, config)
