"""Adopted artifacts: the files of any artifact as the artifact of a stage, so that the stages after it continue there.

An adopted artifact has the same files, so nothing is copied, and the artifact that it was adopted from as its only
parent. Its config says so instead of holding the stage's settings.
"""

from __future__ import annotations

from aquarat_core.artifacts.manifest import ADOPTED_FROM, Manifest
from aquarat_core.artifacts.store import Artifact

PROFILE = "adopted"
"""In place of a profile's name, because no profile's settings have made it."""
RUN = "adopt-"
"""Begins the run id of an adopted artifact, which no run has made."""


def adopt(artifact: Artifact, asset: str) -> Artifact:
    """Publishes the files of `artifact` as an artifact of `asset` in the same store. Does not move a ref."""
    held = artifact.manifest
    manifest = Manifest.create(
        asset=asset,
        kind=held.kind,
        files=held.files,
        records=held.records,
        config={ADOPTED_FROM: {"asset": artifact.asset, "manifest_sha256": artifact.sha256, "run_id": held.run_id}},
        profile=PROFILE,
        code=held.code,
        parents=(artifact.as_parent(),),
        metrics=held.metrics,
        seeds=held.seeds,
        libraries=held.libraries,
        hardware=held.hardware,
        run_id=f"{RUN}{artifact.sha256[:12]}",
        wandb=held.wandb,
    )
    return artifact.store.add_manifest(manifest, latest=False)
