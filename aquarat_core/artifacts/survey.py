"""Reads the contents of a store in parallel: its manifests, refs and pins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore
from aquarat_core.artifacts.records import READERS, Pin, Ref, read_each, read_pin, read_ref
from aquarat_core.artifacts.store import name_of_ref
from aquarat_core.artifacts.transfer import parallel_map


def all_artifacts(store: ArtifactStore) -> dict[str, Artifact | ArtifactError]:
    """All manifests in the store by hash; an error for those that cannot be read."""
    return read_artifacts(store, (Path(key).stem for key in store.backend.keys("manifests/")))


def readable_artifacts(store: ArtifactStore) -> dict[str, Artifact]:
    """The manifests in the store that can be read, by hash."""
    return {sha256: found for sha256, found in all_artifacts(store).items() if isinstance(found, Artifact)}


def read_artifacts(store: ArtifactStore, hashes: Iterable[str]) -> dict[str, Artifact | ArtifactError]:
    """The manifests with those hashes; an error for those that cannot be read."""

    def read(sha256: str) -> Artifact | ArtifactError:
        try:
            return store.get(sha256)
        except ArtifactError as e:
            return e

    hashes = list(dict.fromkeys(hashes))
    return dict(zip(hashes, parallel_map(read, hashes, READERS), strict=True))


def refs(store: ArtifactStore) -> dict[str, Ref | ArtifactError]:
    """All refs by asset name (`<experiment>/<asset>` for a named experiment); an error for those that cannot be
    read."""
    names = {key: name for key in store.backend.keys("refs/") if (name := name_of_ref(key))}
    return {names[key]: ref for key, ref in read_each(store.backend, names, read_ref)}


def pins(store: ArtifactStore) -> dict[str, Pin | ArtifactError]:
    """All pins by the name of their object, which is the pinned hash; an error for those that cannot be read."""
    keys = [key for key in store.backend.keys("pins/") if key.endswith(".json")]
    read = read_each(store.backend, keys, read_pin)
    return {key.removeprefix("pins/").removesuffix(".json"): pin for key, pin in read}


def ancestry(
    store: ArtifactStore, hashes: Iterable[str], through: Callable[[Artifact], bool] = lambda artifact: True
) -> dict[str, Artifact | ArtifactError]:
    """The manifests with those hashes and of all their ancestors, read one generation at a time.

    Ancestors of artifacts for which `through` is false are left out, unless there is another way to them.
    """
    known: dict[str, Artifact | ArtifactError] = {}
    wanted = set(hashes)
    while wanted:
        read = read_artifacts(store, sorted(wanted))
        known |= read
        found = [a for a in read.values() if isinstance(a, Artifact) and through(a)]
        wanted = {p.manifest_sha256 for a in found for p in a.manifest.parents} - set(known)
    return known
