"""Artifacts out of a store: as plain files into a folder, or as artifacts into another store."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, FileEntry, digest_file
from aquarat_core.artifacts.errors import os_errors
from aquarat_core.artifacts.store import blob_key
from aquarat_core.artifacts.transfer import Advance, each, ignore
from aquarat_core.upkeep.survey import ancestry

MANIFEST = "manifest.json"


def with_ancestors(artifact: Artifact) -> list[Artifact]:
    """The artifact and all its ancestors, parents before children. Raises `ArtifactError` if one is missing."""
    known = ancestry(artifact.store, [artifact.sha256])
    if missing := [e for e in known.values() if not isinstance(e, Artifact)]:
        raise ArtifactError(f"the ancestry of {artifact.asset} is not complete: {missing[0]}")
    ordered: dict[str, Artifact] = {}

    def visit(sha256: str) -> None:
        if sha256 not in ordered:
            for parent in known[sha256].manifest.parents:
                visit(parent.manifest_sha256)
            ordered[sha256] = known[sha256]

    visit(artifact.sha256)
    return list(ordered.values())


def size_of(artifacts: Iterable[Artifact]) -> int:
    """Bytes of the artifacts' files and records."""
    return sum(e.size for a in artifacts for e in (*a.manifest.files, *a.manifest.records))


def folder_of(artifact: Artifact, target: Path) -> Path:
    """Where `pull` puts an artifact below `target`."""
    return target / f"{artifact.asset}-{artifact.sha256[:12]}"


def pull(artifact: Artifact, target: Path, advance: Advance = ignore) -> Path:
    """Fetches files, `records/` and the manifest into a folder of their own, verified; the manifest comes last.

    What is there and right stays, and what a pull that was cut off left is taken up.
    """
    folder = folder_of(artifact, target)
    files = [(e, folder / e.path) for e in artifact.manifest.files]
    files += [(e, folder / "records" / e.path) for e in artifact.manifest.records]

    def fetch(wanted: tuple[FileEntry, Path]) -> None:
        entry, path = wanted
        if path.is_file() and path.stat().st_size == entry.size and digest_file(path) == entry.digest:
            return advance(entry.size)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        have = part.stat().st_size if part.is_file() else 0
        artifact.store.fetch(artifact, entry, part, have, advance)
        os.replace(part, path)

    with os_errors(f"folder {target}", "Name another folder, or free the space or permissions it needs."):
        each(fetch, files)
        (folder / MANIFEST).write_bytes(artifact.manifest.to_bytes())
    return folder


def push(artifact: Artifact, target: ArtifactStore, advance: Advance = ignore, *, latest: bool = True) -> Artifact:
    """Copies the artifact into another store, under the same hashes; with `latest` its ref there moves to it."""
    entries = [(e, "files") for e in artifact.manifest.files] + [(e, "records") for e in artifact.manifest.records]

    def send(wanted: tuple[FileEntry, str]) -> None:
        entry, what = wanted
        local = artifact.path(entry.path) if what == "files" else artifact.record(entry.path)
        target.backend.put_file(blob_key(entry.digest), local, entry.digest, advance)

    each(send, entries)
    return target.add_manifest(artifact.manifest, latest=latest)
