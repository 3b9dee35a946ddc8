"""Takes a result that another chain has made into an experiment: the same artifact, recorded there too."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.stages.stage import Stage
from aquarat_pipeline._compat import CODE_VERSION_TAG, DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG
from aquarat_pipeline.assets.inputs import latest_input
from aquarat_pipeline.assets.metadata import artifact_metadata
from aquarat_pipeline.assets.needed import tags_of_present
from aquarat_pipeline.assets.publishing import sole_publisher
from aquarat_pipeline.checks.again import check_again
from aquarat_pipeline.events import LEFT_OUT, LIST, RUN
from aquarat_pipeline.experiments import Experiment


def take(
    instance: dg.DagsterInstance, store: ArtifactStore, experiment: Experiment, stage: Stage, artifact: Artifact
) -> None:
    """Makes an artifact that the stage would make again the experiment's latest, for the store and for Dagster.

    Nothing is copied. The experiment must have the inputs. Dagster then treats the asset like one that a run has made:
    it becomes stale with its code, its settings and its inputs.
    """
    read = [parent.asset for parent in artifact.manifest.parents]
    inputs = [latest_input(instance, stage, name, experiment) for name in read]
    left_out = [name for name in experiment.inputs(stage.name) if name not in read]
    tags = {
        DATA_VERSION_TAG: artifact.data_version,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
        CODE_VERSION_TAG: artifact.manifest.code.version,
        **tags_of_present(instance, map(experiment.key, left_out)),
    }
    for pinned in inputs:
        tags |= pinned.tags
    metadata = artifact_metadata(artifact, inputs) | {RUN: artifact.manifest.run_id}
    metadata |= {LEFT_OUT: LIST.join(left_out)} if left_out else {}
    # The same lock as that of a stage's result, so that the store and Dagster agree on the latest.
    with sole_publisher(Path(instance.root_directory), experiment.step(stage.name)):
        store.make_latest(artifact, experiment.ref(stage.name))
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                experiment.key(stage.name),
                description=f"The artifact {artifact.sha256[:12]} of another chain, made by the same code and settings "
                "from the same data.",
                metadata=metadata,
                tags=tags,
            )
        )
    check_again(instance, store, experiment, stage)
