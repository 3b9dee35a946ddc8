"""Copies artifacts out of a store: as plain files to a folder, or as artifacts to another store."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, FileEntry, digest_file
from aquarat_core.artifacts.errors import os_errors
from aquarat_core.artifacts.lineage import too_deep
from aquarat_core.artifacts.manifest import MAX_GENERATIONS
from aquarat_core.artifacts.store import blob_key
from aquarat_core.artifacts.survey import ancestry
from aquarat_core.artifacts.transfer import OnBytes, no_progress, parallel_map

MANIFEST = "manifest.json"


def with_ancestors(artifact: Artifact) -> list[Artifact]:
    """The artifact and all its ancestors, parents before children. Raises `ArtifactError` if one is missing."""
    known = ancestry(artifact.store, [artifact.sha256])
    there = {sha256: e for sha256, e in known.items() if isinstance(e, Artifact)}
    if missing := [e for e in known.values() if not isinstance(e, Artifact)]:
        raise ArtifactError(f"the ancestry of {artifact.asset} is not complete: {missing[0]}")
    ordered: dict[str, Artifact] = {}

    def visit(sha256: str, generations: int) -> None:
        if not generations:
            raise ArtifactError(too_deep(artifact.store, sha256))
        if sha256 not in ordered:
            for parent in there[sha256].manifest.parents:
                visit(parent.manifest_sha256, generations - 1)
            ordered[sha256] = there[sha256]

    visit(artifact.sha256, MAX_GENERATIONS)
    return list(ordered.values())


def size_of(artifacts: Iterable[Artifact]) -> int:
    """Total bytes of the artifacts' files and records."""
    return sum(e.size for a in artifacts for e in (*a.manifest.files, *a.manifest.records))


def folder_of(artifact: Artifact, target: Path) -> Path:
    """The folder below `target` in which `pull` puts an artifact."""
    return target / f"{artifact.asset}-{artifact.sha256[:12]}"


def pull(artifact: Artifact, target: Path, advance: OnBytes = no_progress) -> Path:
    """Fetches files, `records/` and the manifest, verified, to a folder of their own; the manifest comes last.

    The files are in `files/` if one of them has a name that the folder needs itself. Correct files that are already
    there stay, and an interrupted pull is continued. Raises `ArtifactError` if a link or anything else that is not an
    ordinary folder is in the way: nothing outside the folder is ever written.
    """
    folder = folder_of(artifact, target)
    partial = target / f".{folder.name}.partial"
    content = folder / "files" if _needs_own_folder(artifact) else folder
    files = [(e, content / e.path) for e in artifact.manifest.files]
    files += [(e, folder / "records" / e.path) for e in artifact.manifest.records]

    def fetch(numbered: tuple[int, tuple[FileEntry, Path]]) -> None:
        number, (entry, path) = numbered
        _make_folder(path.parent, target)
        if _is_plain(path) and path.stat().st_size == entry.size and digest_file(path) == entry.digest:
            return advance(entry.size)
        part = partial / f"{number}-{entry.sha256}"
        if not _is_plain(part):
            part.unlink(missing_ok=True)
        have = part.stat().st_size if part.exists() else 0
        artifact.store.fetch(artifact, entry, part, have, advance)
        os.replace(part, path)

    with os_errors(f"folder {target}", "Name another folder, or free the space or permissions it needs."):
        target.mkdir(parents=True, exist_ok=True)
        _make_folder(folder, target)
        _make_folder(partial, target)
        parallel_map(fetch, enumerate(files))
        written = partial / MANIFEST
        written.unlink(missing_ok=True)
        with written.open("xb") as f:
            f.write(artifact.manifest.to_bytes())
        os.replace(written, folder / MANIFEST)
        shutil.rmtree(partial)
    return folder


def _needs_own_folder(artifact: Artifact) -> bool:
    """Whether a file has the name of the folder's manifest or records, on any file system."""
    return any(e.path.split("/")[0].casefold() in (MANIFEST, "records", "files") for e in artifact.manifest.files)


def _make_folder(folder: Path, top: Path) -> None:
    """Creates `folder` below `top`. Raises `ArtifactError` if a part of the path is a link or a file."""
    path = top
    for part in folder.relative_to(top).parts:
        path /= part
        with suppress(FileExistsError):
            path.mkdir()
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise ArtifactError(
                f"{path} is a link or a file where a folder should be: remove it, or name another folder"
            )


def _is_plain(path: Path) -> bool:
    """Whether the file has only this name, so that writing to it changes no other file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def push(artifact: Artifact, target: ArtifactStore, advance: OnBytes = no_progress, *, latest: bool = True) -> Artifact:
    """Copies the artifact to another store under the same hashes; with `latest`, moves its ref there to it."""
    entries = [(e, "files") for e in artifact.manifest.files] + [(e, "records") for e in artifact.manifest.records]

    def send(wanted: tuple[FileEntry, str]) -> None:
        entry, what = wanted
        local = artifact.path(entry.path) if what == "files" else artifact.record(entry.path)
        target.backend.put_file(blob_key(entry.digest), local, entry.digest, advance)

    parallel_map(send, entries)
    return target.add_manifest(artifact.manifest, latest=latest)
