"""Artifacts by the names and addresses that users write."""

from __future__ import annotations

import re

from aquarat_core.artifacts.store import Artifact, ArtifactStore
from aquarat_core.errors import UsageError

FILESYSTEM = "aquarat://"
"""Begins the paths of `aquarat_core.filesystem`, which lead into the store."""


def find_artifact(name: str, store: str) -> Artifact:
    """The artifact of that name in the store, or of a manifest's URI in any store.

    A name is an asset's, `EXPERIMENT/ASSET` in a named experiment, or the beginning of a manifest hash, with or without
    `aquarat://` before it. Raises `UsageError` for another URI, and `ArtifactError` for what is not there.
    """
    name = name.removeprefix(FILESYSTEM).rstrip("/") if name.startswith(FILESYSTEM) else name
    if "://" not in name:
        return ArtifactStore.open(store).resolve(name)
    if (match := re.fullmatch(r"(.+)/manifests/([0-9a-f]{64})\.json", name)) is None:
        raise UsageError(f"{name} is no artifact's URI: it ends in /manifests/<hash>.json, as `aquarat show` prints it")
    return ArtifactStore.open(match[1]).get(match[2])


def find_checkpoint(name: str, store: str) -> Artifact:
    """Like `find_artifact`, but for a release the checkpoint that it was made from, which has the same weights.

    Raises `ArtifactError` too if the store no longer has that checkpoint. Artifacts of other kinds are returned as they
    are.
    """
    artifact = find_artifact(name, store)
    if artifact.manifest.kind != "release":
        return artifact
    parents = (artifact.store.get(parent.manifest_sha256) for parent in artifact.manifest.parents)
    return next((parent for parent in parents if parent.manifest.kind == "checkpoint"), artifact)
