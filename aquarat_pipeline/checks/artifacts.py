"""Checks that every artifact must pass: its bytes are there, and its manifest agrees with Dagster about its inputs."""

import dagster as dg

from aquarat_core.artifacts import Artifact, ArtifactError
from aquarat_core.stages.registry import STAGES
from aquarat_core.stages.stage import Stage
from aquarat_pipeline._compat import get_input_data_version_tag
from aquarat_pipeline.assets.events import adoption_of, latest_materialization, left_out_of, manifest_of
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.resources.store import StoreResource


def artifact_checks(experiment: Experiment) -> list[dg.AssetChecksDefinition]:
    """`artifact_complete` for every asset of an experiment, `lineage_agrees` for every asset with inputs."""
    stages = [STAGES[name] for name in experiment.stages]
    complete = [_artifact_complete(experiment, stage) for stage in stages]
    return [*complete, *(_lineage_agrees(experiment, stage) for stage in stages if stage.inputs)]


def latest(
    instance: dg.DagsterInstance, store: StoreResource, key: dg.AssetKey
) -> tuple[Artifact, dg.AssetMaterialization]:
    """The artifact of the asset's latest materialization, and that event. Raises `ArtifactError` if there is none."""
    materialization = latest_materialization(instance, key)
    if materialization is None:
        raise ArtifactError(f"{key.to_user_string()} has not been materialized yet")
    sha256 = manifest_of(materialization)
    if sha256 is None:
        raise ArtifactError(
            f"the latest materialization of {key.to_user_string()} was reported by hand and names no manifest: "
            "materialize it again"
        )
    return store.open().get(sha256), materialization


def _artifact_complete(experiment: Experiment, stage: Stage) -> dg.AssetChecksDefinition:
    name = experiment.ref(stage.name)

    @dg.asset_check(
        asset=experiment.key(stage.name),
        name="artifact_complete",
        op_tags=experiment.tags,
        description="Every file of the latest materialization is in the store, and the store calls it the latest too.",
    )
    def check(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        try:
            artifact, _ = latest(context.instance, store, experiment.key(stage.name))
        except ArtifactError as e:
            return dg.AssetCheckResult(passed=False, metadata={"reason": str(e)})
        in_store = artifact.store.latest(name)
        metadata = {"manifest_sha256": artifact.sha256, "latest_in_store": in_store.sha256 if in_store else "none"}
        if artifact.is_complete() and (in_store is None or in_store.sha256 != artifact.sha256):
            reason = f"the store's latest {name} is another one: it was published outside of this Dagster instance"
            warned = dg.AssetCheckSeverity.WARN
            return dg.AssetCheckResult(passed=False, severity=warned, metadata={**metadata, "reason": reason})
        return dg.AssetCheckResult(passed=artifact.is_complete(), metadata=metadata)

    return check


def _lineage_agrees(experiment: Experiment, stage: Stage) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=experiment.key(stage.name),
        name="lineage_agrees",
        op_tags=experiment.tags,
        description="The parents in the manifest are those that Dagster recorded for the materialization.",
    )
    def check(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
        artifact, event = latest(context.instance, store, experiment.key(stage.name))
        in_manifest = {p.asset: p.data_version for p in artifact.manifest.parents}
        if source := artifact.manifest.adopted_from:
            # Adopted outside of any run: the event names the checkpoint, and the tags say what Dagster compares.
            recorded_source = adoption_of(event)
            return dg.AssetCheckResult(
                passed=source.manifest_sha256 == recorded_source,
                metadata={"manifest": source.manifest_sha256, "dagster": recorded_source or "none"},
            )
        tags = event.tags or {}
        read = [name for name in stage.inputs if name not in left_out_of(event)]
        recorded = {name: tags.get(get_input_data_version_tag(experiment.key(name))) for name in read}
        in_dagster = {name: version for name, version in recorded.items() if version is not None}
        return dg.AssetCheckResult(
            passed=in_manifest == in_dagster, metadata={"manifest": in_manifest, "dagster": in_dagster}
        )

    return check
