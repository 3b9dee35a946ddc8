"""Information from earlier runs about the stages of a new one: results that are still valid, and usual durations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pydantic import BaseModel

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, Parent, StoreError
from aquarat_core.config import same_config
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.registry import CHECKPOINTS, STAGES
from aquarat_core.stages.stage import Stage
from aquarat_pipeline._compat import CODE_VERSION_TAG, DATA_VERSION_TAG, get_input_data_version_tag
from aquarat_pipeline.assets.config import run_config_of
from aquarat_pipeline.assets.needed import needed_inputs
from aquarat_pipeline.assets.skipped import skipped_of
from aquarat_pipeline.events import adoption_of, latest_materialization, manifest_of
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.jobs.progress import Ahead

LOOKED_AT = 20
"""Number of an asset's latest materializations that are searched for one with the same config."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """An asset's latest result, if the current code, config and inputs would make it again, or if it was adopted."""

    artifact: Artifact
    made: float
    """Seconds since 1970."""

    @property
    def adopted(self) -> Parent | None:
        """The artifact that it was adopted from."""
        return self.artifact.manifest.adopted_from


def fresh(
    instance: dg.DagsterInstance, store: ArtifactStore, experiment: Experiment, names: Iterable[str]
) -> dict[str, Fresh]:
    """Assets of an experiment that need not be made again, and none of whose inputs among `names` need to be, unless
    they were adopted.

    Does not check sources outside the store, such as a newer revision of a data set on the Hub.
    """
    wanted, found = set(names), dict[str, Fresh]()
    # In the table, every stage comes after its inputs.
    for name in (name for name in STAGES if name in wanted):
        stage, left = STAGES[name], wanted - found.keys()
        inputs = needed_inputs(instance, experiment, stage, stage.config(experiment.profile), left)
        remade = any(parent in wanted and parent not in found for parent in inputs)
        if remade and name not in CHECKPOINTS:
            continue
        match standing(instance, store, experiment, STAGES[name], STAGES[name].config(experiment.profile)):
            case Fresh() as held if held.adopted or not remade:
                found[name] = held
            case _:
                pass
    return found


def adopted(instance: dg.DagsterInstance, store: ArtifactStore, experiment: Experiment) -> set[str]:
    """The training stages whose latest result was adopted and is complete in the store."""
    made = {name: latest_materialization(instance, experiment.key(name)) for name in CHECKPOINTS}
    return {name for name, event in made.items() if event and adoption_of(event) and _artifact(store, event)}


def standing(
    instance: dg.DagsterInstance,
    store: ArtifactStore,
    experiment: Experiment,
    stage: Stage,
    section: BaseModel | None,
) -> Fresh | str:
    """The stage's latest result if it is up to date under that config, else why it is not, as half a sentence.

    An adopted checkpoint is always up to date. Does not check whether the inputs themselves are up to date.
    """
    records = instance.fetch_materializations(experiment.key(stage.name), limit=1).records
    made = records[0].asset_materialization if records else None
    if made is None:
        return "was never made"
    tags = made.tags or {}
    if adoption_of(made) and (artifact := _artifact(store, made)):
        return Fresh(artifact, records[0].timestamp)
    if tags.get(CODE_VERSION_TAG) != code_version(stage, section):
        return "was made by other code or with another config"
    inputs = {name: experiment.key(name) for name in needed_inputs(instance, experiment, stage, section)}
    changed = [
        experiment.ref(name)
        for name, key in inputs.items()
        if tags.get(get_input_data_version_tag(key)) != latest_data_version(instance, key)
    ]
    if changed:
        return f"was made from another {' and another '.join(changed)}"
    artifact = _artifact(store, made)
    return Fresh(artifact, records[0].timestamp) if artifact else "is not complete in the store"


def ahead(context: dg.AssetExecutionContext, name: str, experiment: Experiment) -> Ahead | None:
    """The position of stage `name` in its run, and how long the remaining stages took before."""
    instance, run = context.instance, context.run
    if run.execution_plan_snapshot_id is None:
        return None
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    skipped = skipped_of(instance.get_run_by_id(run.run_id) or run)
    steps = {experiment.step(stage): stage for stage in STAGES if experiment.ref(stage) not in skipped}
    keys = [key for key in plan.step_keys_to_execute if key in steps]
    ended = {s.step_key for s in instance.get_run_step_stats(run.run_id, keys) if s.end_time is not None}
    later = [steps[key] for key in keys if key not in ended and steps[key] != name]
    ops = experiment.ops(run.run_config)
    known = {stage: _usual_seconds(instance, stage, experiment, ops) for stage in (name, *later)}
    times = [seconds for stage in later if (seconds := known[stage]) is not None]
    total = sum(times) if len(times) == len(later) else None
    return Ahead(len(keys) - len(later), len(keys), known[name], total)


def latest_data_version(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """The data version of an asset's latest materialization; None if there is none."""
    made = latest_materialization(instance, key)
    return (made.tags or {}).get(DATA_VERSION_TAG) if made else None


def _artifact(store: ArtifactStore, made: dg.AssetMaterialization) -> Artifact | None:
    sha256 = manifest_of(made)
    try:
        artifact = store.get(sha256) if sha256 else None
        return artifact if artifact and artifact.is_complete() else None
    except (ArtifactError, StoreError):
        return None  # it was garbage-collected, or is in another store


def _usual_seconds(
    instance: dg.DagsterInstance, name: str, experiment: Experiment, ops: dict[str, Any]
) -> float | None:
    """How long the stage's step last took with the config that it will have in this run."""
    own: dict[str, Any] = ops.get(name) or {}
    section = run_config_of(STAGES[name], experiment.profile, own.get("config"), ops)
    for record in instance.fetch_materializations(experiment.key(name), limit=LOOKED_AT).records:
        made = record.asset_materialization
        held = made.metadata.get("config") if made else None
        if held is None or not same_config(section, held.value):
            continue
        for step in instance.get_run_step_stats(record.run_id, [experiment.step(name)]):
            if step.start_time is not None and step.end_time is not None:
                return step.end_time - step.start_time
    return None
