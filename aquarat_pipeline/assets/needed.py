"""Which inputs a stage reads, given what was adopted, and how the others are recorded."""

from __future__ import annotations

from collections.abc import Container, Iterable

import dagster as dg
from pydantic import BaseModel

from aquarat_core.stages.registry import EVAL_REPORTS
from aquarat_core.stages.stage import Stage
from aquarat_pipeline._compat import (
    DATA_VERSION_TAG,
    NULL_DATA_VERSION,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from aquarat_pipeline.events import adoption_of, latest_materialization
from aquarat_pipeline.experiments import Experiment


def needed_inputs(
    instance: dg.DagsterInstance,
    experiment: Experiment,
    stage: Stage,
    section: BaseModel | None,
    remade: Container[str] = (),
) -> tuple[str, ...]:
    """The inputs that a stage reads under a config.

    The chain before an adopted checkpoint may not exist, so an eval report on one is not compared with the report of
    the phase before. `remade` are the stages that will be made before this one: their results are not adopted.
    """
    names = stage.needs(section)
    checkpoint = stage.name.replace("_eval_report", "_checkpoint")
    if stage.name not in EVAL_REPORTS or checkpoint in remade:
        return names
    event = latest_materialization(instance, experiment.key(checkpoint))
    if event is None or not adoption_of(event):
        return names
    return tuple(name for name in names if name not in EVAL_REPORTS)


def tags_of_present(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> dict[str, str]:
    """Tags with which a materialization records inputs that it was not made from, as they are now: Dagster calls it
    stale once they change."""
    tags: dict[str, str] = {}
    for key in keys:
        records = instance.fetch_materializations(key, limit=1).records
        event = records[0].asset_materialization if records else None
        version = (event.tags or {}).get(DATA_VERSION_TAG) if event else None
        tags[get_input_data_version_tag(key)] = version or NULL_DATA_VERSION.value
        tags[get_input_event_pointer_tag(key)] = str(records[0].storage_id) if version else NULL_EVENT_POINTER
    return tags
