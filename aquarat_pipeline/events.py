"""Reads materializations from Dagster's event log: the latest of an asset, and the texts in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from aquarat_core.artifacts.manifest import ADOPTED_FROM

RUN = "run"
"""In the metadata of what no Dagster run has made: the run id in its manifest."""
METRICS = "metrics"
"""In the metadata: all metrics of the manifest with their exact values, as JSON."""
LEFT_OUT, LIST = "left_out", ", "
"""In the metadata: the inputs that a stage did not read, separated by `LIST`."""


def latest_materialization(instance: dg.DagsterInstance, key: dg.AssetKey) -> dg.AssetMaterialization | None:
    """The asset's latest materialization; None if it has none."""
    event = instance.get_latest_materialization_event(key)
    return event.asset_materialization if event else None


def manifest_of(materialization: dg.AssetMaterialization) -> str | None:
    """SHA-256 of the materialized manifest; None for an event that was reported by hand."""
    return text_of(materialization, "manifest_sha256")


def adoption_of(materialization: dg.AssetMaterialization) -> str | None:
    """SHA-256 of the manifest from which this one was adopted; None if a stage made it."""
    return text_of(materialization, ADOPTED_FROM)


def text_of(materialization: dg.AssetMaterialization, name: str) -> str | None:
    """A text in the metadata; None if there is no text with that name."""
    held = materialization.metadata.get(name)
    return held.value if held is not None and isinstance(held.value, str) else None


def left_out_of(materialization: dg.AssetMaterialization) -> list[str]:
    """The inputs of the asset that it was not made from."""
    text = text_of(materialization, LEFT_OUT)
    return text.split(LIST) if text else []


def metrics_of(materialization: dg.AssetMaterialization) -> Mapping[str, Any]:
    """The metrics of the materialized artifact. Older events have each of them as metadata of its own."""
    held = materialization.metadata.get(METRICS)
    if held is not None and isinstance(held.value, dict):
        return held.value
    return {name: value.value for name, value in materialization.metadata.items()}
