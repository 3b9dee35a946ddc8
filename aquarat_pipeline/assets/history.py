"""What earlier runs tell about the stages of a new one: which results still stand, and how long each stage takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, StoreError
from aquarat_core.config import Profile
from aquarat_core.stages.registry import STAGES, code_version
from aquarat_pipeline._compat import CODE_VERSION_TAG, DATA_VERSION_TAG, get_input_data_version_tag
from aquarat_pipeline.assets.config import run_config_of
from aquarat_pipeline.launching.progress import Ahead

LOOKED_AT = 20
"""So many of an asset's materializations are looked through for one of the same config."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """An asset's latest result, which the same code, config and inputs would make again."""

    artifact: Artifact
    made: float
    """Seconds since 1970."""


def fresh(
    instance: dg.DagsterInstance, store: ArtifactStore, profile: Profile, names: Iterable[str]
) -> dict[str, Fresh]:
    """Those of the assets that need not be made again, all of whose inputs among `names` need not be either.

    What a stage takes from elsewhere, as the Hub's newest revision of a data set, is not looked at.
    """
    wanted, found = set(names), {}
    # The stages stand in the table after their inputs.
    for name in (name for name in STAGES if name in wanted):
        stage = STAGES[name]
        records = instance.fetch_materializations(dg.AssetKey(name), limit=1).records
        if not records or any(parent in wanted and parent not in found for parent in stage.inputs):
            continue
        made = records[0].asset_materialization
        tags = made.tags or {}
        if tags.get(CODE_VERSION_TAG) != code_version(stage, stage.config(profile)):
            continue
        if any(tags.get(get_input_data_version_tag(dg.AssetKey(p))) != _version(instance, p) for p in stage.inputs):
            continue
        if artifact := _artifact(store, made):
            found[name] = Fresh(artifact, records[0].timestamp)
    return found


def ahead(context: dg.AssetExecutionContext, name: str, profile: Profile) -> Ahead | None:
    """The place of stage `name` among those of its run, and how long what is left has taken before."""
    instance, run = context.instance, context.run
    if run.execution_plan_snapshot_id is None:
        return None
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    keys = [key for key in plan.step_keys_to_execute if key in STAGES]
    ended = {s.step_key for s in instance.get_run_step_stats(run.run_id, keys) if s.end_time is not None}
    later = [key for key in keys if key not in ended and key != name]
    ops = run.run_config.get("ops", {})
    known = {key: _usual_seconds(instance, key, profile, ops) for key in (name, *later)}
    total = None if None in [known[key] for key in later] else sum(known[key] for key in later)
    return Ahead(len(keys) - len(later), len(keys), known[name], total)


def _version(instance: dg.DagsterInstance, name: str) -> str | None:
    event = instance.get_latest_materialization_event(dg.AssetKey(name))
    made = event.asset_materialization if event else None
    return (made.tags or {}).get(DATA_VERSION_TAG) if made else None


def _artifact(store: ArtifactStore, made: dg.AssetMaterialization) -> Artifact | None:
    sha256 = made.metadata.get("manifest_sha256")
    try:
        artifact = store.get(sha256.value) if sha256 else None
        return artifact if artifact and artifact.is_complete() else None
    except (ArtifactError, StoreError):
        return None  # it was collected, or lies in another store


def _usual_seconds(instance: dg.DagsterInstance, name: str, profile: Profile, ops: dict[str, Any]) -> float | None:
    """How long the stage's step last took with the config that it will have in this run."""
    section = run_config_of(STAGES[name], profile, (ops.get(name) or {}).get("config"), ops)
    config = section.model_dump(mode="json") if section else {}
    for record in instance.fetch_materializations(dg.AssetKey(name), limit=LOOKED_AT).records:
        held = record.asset_materialization.metadata.get("config")
        if held is None or held.value != config:
            continue
        for step in instance.get_run_step_stats(record.run_id, [name]):
            if step.start_time is not None and step.end_time is not None:
                return step.end_time - step.start_time
    return None
