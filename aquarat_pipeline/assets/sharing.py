"""Takes a result that another chain has made into an experiment: the same artifact, recorded there too."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.stages.stage import Stage
from aquarat_pipeline._compat import CODE_VERSION_TAG
from aquarat_pipeline.assets.inputs import latest_input
from aquarat_pipeline.assets.metadata import artifact_metadata
from aquarat_pipeline.assets.publishing import sole_publisher
from aquarat_pipeline.assets.recording import record_without_run, recorded_inputs
from aquarat_pipeline.checks.again import check_again
from aquarat_pipeline.experiments import Experiment


def take(
    instance: dg.DagsterInstance, store: ArtifactStore, experiment: Experiment, stage: Stage, artifact: Artifact
) -> None:
    """Makes an artifact that the stage would make again the experiment's latest, for the store and for Dagster.

    Nothing is copied. The experiment must have the inputs. Dagster then treats the asset like one that a run has made:
    it becomes stale with its code, its settings and its inputs.
    """
    read = {p.asset: latest_input(instance, stage, p.asset, experiment) for p in artifact.manifest.parents}
    tags, left_out = recorded_inputs(instance, experiment, stage, read)
    # The same lock as that of a stage's result, so that the store and Dagster agree on the latest.
    with sole_publisher(Path(instance.root_directory), experiment.step(stage.name)):
        record_without_run(
            instance, store, experiment, stage, artifact,
            description=f"The artifact {artifact.sha256[:12]} of another chain, made by the same code and settings "
            "from the same data.",
            metadata=artifact_metadata(artifact, read.values()) | left_out,
            tags={CODE_VERSION_TAG: artifact.manifest.code.version, **tags},
        )  # fmt: skip
    check_again(instance, store, experiment, stage)
