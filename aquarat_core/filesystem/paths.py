"""Resolves the paths of `aquarat://` and describes them to fsspec.

A path is `<name>/<path in the artifact>`. The name is an asset, `<experiment>/<asset>` or the beginning of a manifest
hash, as for `ArtifactStore.find`. Paths are only compared with names in the store and paths in a manifest, so `..`
leads nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from aquarat_core.artifacts import Artifact, ArtifactStore, FileEntry
from aquarat_core.filesystem.errors import NoSuchPathError

RECORDS = ".records"
"""The folder of an artifact's records. The dot hides it from readers of whole folders, such as `pyarrow.dataset`."""
_MANY = 10

Info: TypeAlias = dict[str, Any]
"""fsspec's info about a path. It always has `name`, `size` (bytes; 0 for folders) and `type`."""


@dataclass(frozen=True, slots=True)
class Place:
    """A location in an artifact: `inner` is the path in it, "" for the artifact itself; `name` is how it was
    addressed."""

    name: str
    artifact: Artifact
    inner: str

    @property
    def entry(self) -> FileEntry | None:
        """The file at this place, or None for a folder or a missing path."""
        return _entries(self.artifact).get(self.inner)

    @property
    def pinned(self) -> str:
        """The path that still leads here after the name has come to mean another artifact."""
        return f"{self.artifact.sha256}/{self.inner}".rstrip("/")

    def local_copy(self) -> Path:
        """Verified local copy of the file at this place. Raises as `Artifact.path` does."""
        is_record = all(entry.path != self.inner for entry in self.artifact.manifest.files)
        if is_record:
            return self.artifact.record(self.inner.removeprefix(f"{RECORDS}/"))
        return self.artifact.path(self.inner)

    def info(self) -> Info:
        """Raises `NoSuchPathError` if nothing is at this path."""
        if self.entry is not None:
            return self._file(self.inner, self.entry)
        if self.inner and next(self._below(), None) is None:
            raise NoSuchPathError(self._describe_nothing())
        return self._folder(self.inner)

    def listing(self) -> list[Info]:
        """The infos of the folder's entries, by name; for a file, its own info."""
        if self.entry is not None or (self.inner and next(self._below(), None) is None):
            return [self.info()]
        found: dict[str, Info] = {}
        start = f"{self.inner}/" if self.inner else ""
        for path, entry in self._below():
            head, is_deeper, _ = path.removeprefix(start).partition("/")
            inner = start + head
            found[inner] = self._folder(inner) if is_deeper else self._file(inner, entry)
        return [found[inner] for inner in sorted(found)]

    def _below(self) -> Iterator[tuple[str, FileEntry]]:
        start = f"{self.inner}/" if self.inner else ""
        return ((path, entry) for path, entry in _entries(self.artifact).items() if path.startswith(start))

    def _file(self, inner: str, entry: FileEntry) -> Info:
        # `datasets` compares `ETag` to tell a new version from the one in its cache.
        content = {"sha256": entry.sha256, "ETag": entry.sha256}
        return {"name": f"{self.name}/{inner}", "size": entry.size, "type": "file", **content, **self._origin()}

    def _folder(self, inner: str) -> Info:
        return folder(f"{self.name}/{inner}" if inner else self.name) | self._origin()

    def _origin(self) -> Info:
        return {"manifest_sha256": self.artifact.sha256, "created": self.artifact.manifest.created}

    def _describe_nothing(self) -> str:
        known = list(_entries(self.artifact))
        listed = ", ".join(known[:_MANY]) + (f" and {len(known) - _MANY} more" if len(known) > _MANY else "")
        return f"{self.name} ({self.artifact.uri}) has no file or folder {self.inner!r}; it has {listed}"


def place_of(store: ArtifactStore, path: str) -> Place | None:
    """The place in an artifact for a path without protocol; None for the root and for an experiment.

    Raises `NoSuchPathError` if the store has no such artifact.
    """
    parts = path.split("/")
    for length in (1, 2):
        name = "/".join(parts[:length])
        if len(parts) >= length and (artifact := store.find(name)) is not None:
            return Place(name, artifact, "/".join(parts[length:]))
    is_experiment = not path or bool(contents(store, parts[0]))
    if is_experiment and len(parts) == 1:
        return None
    raise NoSuchPathError(store.describe_unknown("/".join(parts[: 2 if is_experiment else 1])))


def contents(store: ArtifactStore, path: str) -> list[Info]:
    """The entries of the root (for "") or of an experiment: assets and experiments, as folders."""
    start = f"{path}/" if path else ""
    names = {start + n.removeprefix(start).partition("/")[0] for n in store.assets() if n.startswith(start)}
    return [folder(name) for name in sorted(names)]


def folder(name: str) -> Info:
    return {"name": name, "size": 0, "type": "directory"}


def _entries(artifact: Artifact) -> dict[str, FileEntry]:
    """Files and records by path; if a file and a record share a path, the file wins."""
    records = {f"{RECORDS}/{entry.path}": entry for entry in artifact.manifest.records}
    return records | {entry.path: entry for entry in artifact.manifest.files}
