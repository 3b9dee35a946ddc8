"""Checks that every artifact must pass: its bytes are there, and its manifest agrees with Dagster about its inputs."""

from __future__ import annotations

from aquarat_pipeline._compat import get_input_data_version_tag
from aquarat_pipeline.checks.check import WARN, Check, Finding, Subject, found
from aquarat_pipeline.events import adoption_of, left_out_of


def _complete(subject: Subject) -> Finding:
    artifact = subject.artifact
    if not artifact.is_complete():
        return found(False, "Files of the artifact are missing from the store, or have another size or checksum.")
    if not subject.recorded:
        return found(True, f"All {len(artifact.manifest.files)} files are in the store.")
    name = subject.experiment.ref(subject.stage.name)
    latest = artifact.store.latest(name)
    if latest is None or latest.sha256 != artifact.sha256:
        said = f"The store's latest {name} is another one: it was published outside of this Dagster instance."
        return found(False, said, WARN, latest_in_store=latest.sha256 if latest else "none")
    return found(True, f"All {len(artifact.manifest.files)} files are in the store, which calls it the latest too.")


def _lineage(subject: Subject) -> Finding:
    manifest = subject.artifact.manifest
    if source := manifest.adopted_from:
        # Adopted outside of any run: the event names the checkpoint, and the tags say what Dagster compares.
        recorded_source = adoption_of(subject.made)
        agree = source.manifest_sha256 == recorded_source
        return _compared(agree, source.manifest_sha256, recorded_source or "none")
    in_manifest = {p.asset: p.data_version for p in manifest.parents}
    tags = subject.made.tags or {}
    read = [name for name in subject.stage.inputs if name not in left_out_of(subject.made)]
    recorded = {name: tags.get(get_input_data_version_tag(subject.experiment.key(name))) for name in read}
    in_dagster = {name: version for name, version in recorded.items() if version is not None}
    return _compared(in_manifest == in_dagster, in_manifest, in_dagster)


def _compared(agree: bool, in_manifest: object, in_dagster: object) -> Finding:
    said = "Manifest and event name the same parents." if agree else "Manifest and event name different parents."
    return found(agree, said, manifest=in_manifest, dagster=in_dagster)


COMPLETE = Check(
    "artifact_complete",
    "Every file of the latest materialization is in the store, and the store calls it the latest too.",
    _complete,
    blocking=True,
)
LINEAGE = Check(
    "lineage_agrees",
    "The parents in the manifest are those that Dagster recorded for the materialization.",
    _lineage,
    blocking=True,
)
