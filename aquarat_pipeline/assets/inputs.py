"""Pins a stage's inputs: decides once which materialization of each upstream asset it uses, and records that."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg

from aquarat_core.artifacts import Parent
from aquarat_core.errors import UserError
from aquarat_core.stages.registry import Stage
from aquarat_pipeline._compat import get_input_data_version_tag, get_input_event_pointer_tag
from aquarat_pipeline.events import RUN, manifest_of, text_of
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.tags import INPUTS_TAG

_NO_HOME = (
    "DAGSTER_HOME is not set, so Dagster would forget this run and its lineage when the command ends. "
    "Run the command inside `./run shell`, or export DAGSTER_HOME as an absolute path."
)


class InputError(UserError):
    """A stage that cannot start because of its inputs; the message says what to materialize first."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """One input: the artifact, the Dagster event that materialized it, and its asset key."""

    parent: Parent
    storage_id: int
    key: dg.AssetKey

    def to_json(self) -> dict[str, Any]:
        return {"parent": self.parent.model_dump(), "storage_id": self.storage_id}

    @classmethod
    def from_json(cls, held: dict[str, Any], key: dg.AssetKey) -> Pinned:
        return cls(Parent.model_validate(held["parent"]), held["storage_id"], key)

    @property
    def tags(self) -> dict[str, str]:
        """The tags with which Dagster records an input on the materialization made from it."""
        return {
            get_input_data_version_tag(self.key): self.parent.data_version,
            get_input_event_pointer_tag(self.key): str(self.storage_id),
        }


def require_lasting_instance(instance: dg.DagsterInstance) -> None:
    """Raises `InputError` for an instance that vanishes with the process, because it has no inputs and no lineage."""
    if instance.is_ephemeral:
        raise InputError(_NO_HOME)
    require_home()


def require_home() -> None:
    """Raises `InputError` if `DAGSTER_HOME` names no instance."""
    if not os.environ.get("DAGSTER_HOME"):
        raise InputError(_NO_HOME)


def pin_inputs(
    instance: dg.DagsterInstance, stage: Stage, names: Iterable[str], run_id: str, experiment: Experiment
) -> dict[str, Pinned]:
    """The inputs of `stage` among the assets with those names: for each, the latest materialization in its experiment
    at the time when the step first started.

    The choice is written to a tag of the run before anything starts. A later attempt, or a process that takes over the
    step, reads it from there, whatever has been materialized since. Raises `InputError` if an input has never been
    materialized.
    """
    run = instance.get_run_by_id(run_id)
    if run and (chosen := run.tags.get(INPUTS_TAG + stage.name)):
        return {name: Pinned.from_json(held, experiment.key(name)) for name, held in json.loads(chosen).items()}
    latest = {name: latest_input(instance, stage, name, experiment) for name in names}
    text = json.dumps({name: pinned.to_json() for name, pinned in latest.items()})
    instance.add_run_tags(run_id, {INPUTS_TAG + stage.name: text})
    return latest


def latest_input(instance: dg.DagsterInstance, stage: Stage, name: str, experiment: Experiment) -> Pinned:
    """The latest materialization of an input of `stage`. Raises `InputError` if there is none."""
    key, ref = experiment.key(name), experiment.ref(name)
    records = instance.fetch_materializations(key, limit=1).records
    if not records:
        raise InputError(
            f"{stage.name} needs {ref}, which has not been materialized in {instance.root_directory}. Materialize it "
            f"first: dagster asset materialize --select {ref} "
            f"(or with everything before it: --select '*{experiment.ref(stage.name)}')"
        )
    record = records[0]
    event = record.asset_materialization
    sha256, version = (manifest_of(event), text_of(event, "data_version")) if event else (None, None)
    if sha256 is None or version is None:
        raise InputError(
            f"the latest materialization of {ref} names no manifest: it was reported by hand. Materialize it again: "
            f"dagster asset materialize --select {ref}"
        )
    # An adopted checkpoint was made by no run.
    run_id = record.run_id or (event and text_of(event, RUN)) or ""
    parent = Parent(asset=name, manifest_sha256=sha256, data_version=version, run_id=run_id)
    return Pinned(parent, record.storage_id, key)
