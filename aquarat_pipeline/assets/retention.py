"""Artifacts that Dagster's event log still needs, which garbage collection must keep."""

from __future__ import annotations

import time

import dagster as dg

from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.assets.inputs import require_home
from aquarat_pipeline.events import manifest_of
from aquarat_pipeline.instance import open_instance

PAGE = 1000


def materialized_manifests(days: int) -> set[str]:
    """Manifests of each asset's latest materialization, and of all those in the last `days` days.

    Reads the instance that `DAGSTER_HOME` names. Raises `InputError` if it names none.
    """
    require_home()
    with open_instance() as instance:
        return needed_manifests(instance, time.time() - days * 86_400)


def needed_manifests(instance: dg.DagsterInstance, since: float) -> set[str]:
    """Manifests of each asset's latest materialization, and of those after `since` (seconds since 1970)."""
    found: set[str] = set()
    for event in latest_events(instance).values():
        if event.asset_materialization is not None:
            found |= _manifest(event.asset_materialization)
    for key in _keys(instance):
        records = dg.AssetRecordsFilter(asset_key=key, after_timestamp=since)
        cursor = None
        while True:
            page = instance.fetch_materializations(records, limit=PAGE, cursor=cursor)
            for record in page.records:
                if record.asset_materialization is not None:
                    found |= _manifest(record.asset_materialization)
            if not page.has_more:
                break
            cursor = page.cursor
    return found


def latest_events(instance: dg.DagsterInstance) -> dict[dg.AssetKey, dg.EventLogEntry]:
    """The latest materialization of each asset that has one."""
    events = {key: instance.get_latest_materialization_event(key) for key in _keys(instance)}
    return {key: event for key, event in events.items() if event is not None}


def _keys(instance: dg.DagsterInstance) -> set[dg.AssetKey]:
    return {dg.AssetKey(name) for name in STAGES} | set(instance.get_asset_keys())


def _manifest(event: dg.AssetMaterialization) -> set[str]:
    sha256 = manifest_of(event)
    return {sha256} if sha256 else set()
