"""How a result is recorded: its inputs, and what no run has made as the latest for the store and for Dagster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.stages.stage import Stage
from aquarat_pipeline._compat import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG
from aquarat_pipeline.assets.inputs import Pinned
from aquarat_pipeline.assets.needed import tags_of_present
from aquarat_pipeline.events import LEFT_OUT, LIST, RUN
from aquarat_pipeline.experiments import Experiment


def recorded_inputs(
    instance: dg.DagsterInstance, experiment: Experiment, stage: Stage, read: Mapping[str, Pinned]
) -> tuple[dict[str, str], dict[str, str]]:
    """Tags and metadata of a result: the inputs that it was made from, and those that it did without."""
    left_out = [name for name in experiment.inputs(stage.name) if name not in read]
    tags = tags_of_present(instance, map(experiment.key, left_out))
    for pinned in read.values():
        tags |= pinned.tags
    return tags, {LEFT_OUT: LIST.join(left_out)} if left_out else {}


def record_without_run(
    instance: dg.DagsterInstance,
    store: ArtifactStore,
    experiment: Experiment,
    stage: Stage,
    artifact: Artifact,
    *,
    description: str,
    metadata: Mapping[str, Any],
    tags: Mapping[str, str],
) -> None:
    """Makes an artifact that no run of the experiment has made the latest of the stage's asset, for the store and for
    Dagster. The caller holds the lock `sole_publisher`, so that both agree."""
    store.make_latest(artifact, experiment.ref(stage.name))
    versions = {DATA_VERSION_TAG: artifact.data_version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            experiment.key(stage.name),
            description=description,
            metadata={**metadata, RUN: artifact.manifest.run_id},
            tags={**versions, **tags},
        )
    )
