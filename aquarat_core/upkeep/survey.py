"""Everything a store has, read in parallel: its manifests, and what its listings say of blobs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore
from aquarat_core.artifacts.transfer import each

READERS = 32
"""Small objects read at once: on a bucket each costs a round trip and hardly any bytes."""


def all_artifacts(store: ArtifactStore) -> dict[str, Artifact | ArtifactError]:
    """Every manifest in the store by its hash, or what is wrong with it."""
    return read_artifacts(store, (Path(key).stem for key in store.backend.keys("manifests/")))


def read_artifacts(store: ArtifactStore, hashes: Iterable[str]) -> dict[str, Artifact | ArtifactError]:
    """The manifests of those hashes, or what is wrong with them."""

    def read(sha256: str) -> Artifact | ArtifactError:
        try:
            return store.get(sha256)
        except ArtifactError as e:
            return e

    hashes = list(dict.fromkeys(hashes))
    return dict(zip(hashes, each(read, hashes, READERS), strict=True))


def refs(store: ArtifactStore) -> dict[str, str]:
    """The hash of the latest manifest of every asset."""
    return dict(_named(store, "refs/"))


def pins(store: ArtifactStore) -> dict[str, str]:
    """The hashes that are pinned, by themselves."""
    return dict(_named(store, "pins/"))


def _named(store: ArtifactStore, prefix: str) -> Iterator[tuple[str, str]]:
    keys = [key for key in store.backend.keys(prefix) if key.endswith(".json")]
    for key, found in zip(keys, each(store.backend.read, keys, READERS), strict=True):
        if found is not None:
            yield key.split("/")[1].removesuffix(".json"), json.loads(found.data)["manifest_sha256"]


def ancestry(store: ArtifactStore, hashes: Iterable[str]) -> dict[str, Artifact | ArtifactError]:
    """The manifests of those hashes and of all their ancestors, a generation at a time."""
    known: dict[str, Artifact | ArtifactError] = {}
    wanted = set(hashes)
    while wanted:
        read = read_artifacts(store, sorted(wanted))
        known |= read
        found = [a for a in read.values() if isinstance(a, Artifact)]
        wanted = {p.manifest_sha256 for a in found for p in a.manifest.parents} - set(known)
    return known
