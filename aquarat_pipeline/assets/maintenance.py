"""Maintenance of a Dagster instance: disagreements with the store about the latest artifacts, and old runs."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from aquarat_core.artifacts import ArtifactError, ArtifactStore
from aquarat_core.artifacts.store import asset_of
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline import beats
from aquarat_pipeline.assets.retention import latest_events
from aquarat_pipeline.events import manifest_of
from aquarat_pipeline.tags import PROFILE_HASH_TAG

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dataclass(frozen=True, slots=True)
class Difference:
    """An asset whose latest manifest differs, or is missing, in either Dagster's events or the store's ref."""

    asset: str
    dagster: str | None
    store: str | None
    problem: str = ""
    """Why the ref could not be read, if so."""


def differences(instance: dg.DagsterInstance, store: ArtifactStore) -> list[Difference]:
    """Assets whose latest artifact is not the same in both. Raises `StoreError` if the store cannot be read."""
    named = latest_manifests(instance)
    found: list[Difference] = []
    others = sorted({*named, *(name for name in store.assets() if asset_of(name) in STAGES)} - STAGES.keys())
    for name in (*STAGES, *others):
        problem = ""
        try:
            artifact = store.latest(name)
        except ArtifactError as e:
            artifact, problem = None, str(e)
        in_store = artifact.sha256 if artifact else None
        if in_store != named.get(name) or problem:
            found.append(Difference(name, named.get(name), in_store, problem))
    return found


def latest_manifests(instance: dg.DagsterInstance) -> dict[str, str]:
    """Manifest of each asset's latest materialization."""
    found: dict[str, str] = {}
    for key, event in latest_events(instance).items():
        if event.asset_materialization and (sha256 := manifest_of(event.asset_materialization)):
            found[key.to_user_string()] = sha256
    return found


def forgettable(instance: dg.DagsterInstance, days: float) -> list[dg.DagsterRun]:
    """Ended runs that were last updated more than `days` ago, except those that made an asset's latest artifact."""
    kept = {event.run_id for event in latest_events(instance).values()}
    before = datetime.fromtimestamp(time.time() - days * 86_400, UTC)
    return [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=_ENDED, updated_before=before))
        if run.run_id not in kept
    ]


def unneeded_profiles(instance: dg.DagsterInstance) -> list[Path]:
    """Saved profiles that no Dagster run uses; those of the last day are kept, because a run may be about to start."""
    needed = {run.tags[PROFILE_HASH_TAG] for run in instance.get_runs() if PROFILE_HASH_TAG in run.tags}
    before = time.time() - 86_400
    kept = (Path(instance.root_directory) / "aquarat" / "profiles").glob("*.yaml")
    return [path for path in kept if path.stem not in needed and path.stat().st_mtime < before]


def forget(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Deletes the run, its events, and its worker's and steps' logs. The artifacts it made stay in the store."""
    home = Path(instance.root_directory)
    instance.delete_run(run.run_id)
    beats.forget(instance, run.run_id)
    for suffix in (".log", ".lock"):
        (home / "aquarat" / "workers" / f"{run.run_id}{suffix}").unlink(missing_ok=True)
    # SQLite has one file per run, which does not shrink when its rows are deleted.
    for path in (home / "history" / "runs").glob(f"{run.run_id}.db*"):
        path.unlink()
    shutil.rmtree(home / "storage" / run.run_id, ignore_errors=True)
