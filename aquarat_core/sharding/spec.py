"""One shard of a stage: the function that makes it, and everything that the function may depend on.

    def encode(work: Work) -> dict[str, Scalar]:
        ...  # reads `work.path("text")`, writes files into `work.folder`
        return {"tokens": 12_345}

The key of a shard's result hashes the function with its sources, its settings and the bytes of its inputs. The function
must be pure: equal keys mean equal files and counts, on every host.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, FileEntry
from aquarat_core.artifacts.hashing import digest_bytes
from aquarat_core.artifacts.manifest import Scalar, canonical
from aquarat_core.artifacts.store import blob_key

FORMAT = 1
Counts = dict[str, Scalar]
Function = Callable[["Work"], Counts]


@dataclass(frozen=True, slots=True)
class Source:
    """A file of an artifact that a shard is made from."""

    artifact: Artifact
    entry: FileEntry
    shared: bool = False
    """Whether all shards read it, as they do a tokenizer: it then stays in the host's cache."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in a store that shards are made from and that is not part of an artifact: another shard function, or the
    stage itself, has made it."""

    store: ArtifactStore
    entry: FileEntry

    def fetch(self, target: Path) -> None:
        """Writes the file to `target`. Raises `ArtifactError` if it is missing or damaged."""
        if self.store.backend.get_file(blob_key(self.entry.digest), target) != self.entry.digest:
            target.unlink(missing_ok=True)
            raise ArtifactError(
                f"{self.entry.path}, which this stage has made and needs, is missing or damaged in "
                f"{self.store.uri}/{blob_key(self.entry.digest)}: start the stage again, which makes it anew"
            )


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """A shard that is wanted."""

    name: str
    """For messages, such as `train-00012.parquet`."""
    function: str
    """`module:function`."""
    code: str
    """Digest of the sources of that function."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON values that affect the result."""
    aside: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON values that do not affect it, such as the place of a file whose digest is in `settings`."""
    inputs: Mapping[str, Source | Stored] = field(default_factory=dict[str, Source | Stored])
    size: int = 0
    """Bytes that the function reads, as far as they are known: small shards are made without further processes."""

    def key(self, stage: str) -> str:
        """SHA-256 of everything that decides the result."""
        inputs = {name: source.entry.sha256 for name, source in self.inputs.items()}
        facts = {"format": FORMAT, "stage": stage, "function": self.function, "code": self.code, "inputs": inputs}
        return digest_bytes(canonical(facts | {"settings": dict(self.settings)})).sha256

    def task(self, stage: str, store: str) -> dict[str, Any]:
        """The shard as JSON, for a process that makes it."""
        inputs = {name: _described(source) for name, source in self.inputs.items()}
        return {
            "stage": stage, "store": store, "name": self.name, "key": self.key(stage), "function": self.function,
            "settings": dict(self.settings), "aside": dict(self.aside), "inputs": inputs,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """What a shard function is given."""

    settings: Mapping[str, Any]
    aside: Mapping[str, Any]
    folder: Path
    """An empty folder for the shard's files."""
    threads: int | None
    """Threads to use; None for one per core."""
    find: Callable[[str], Path]

    def path(self, name: str) -> Path:
        """A verified local copy of an input."""
        return self.find(name)

    def log(self, text: str) -> None:
        """Log one line in the stage's log."""
        print(text, file=sys.stderr, flush=True)


def _described(source: Source | Stored) -> dict[str, Any]:
    entry = source.entry.model_dump()
    if isinstance(source, Stored):
        return {"store": source.store.uri, "manifest": None, "entry": entry, "shared": False}
    artifact = source.artifact
    return {"store": artifact.store.uri, "manifest": artifact.sha256, "entry": entry, "shared": source.shared}


def function_of(entry: str) -> Function:
    """The shard function `module:function`."""
    module, _, name = entry.partition(":")
    return cast(Function, getattr(importlib.import_module(module), name))


def work_of(task: Mapping[str, Any], folder: Path, threads: int | None) -> Work:
    """What the function of a task is given, in a process of its own; `folder` is empty.

    Inputs of this shard alone are copied below `folder`, so that a process holds those of one shard at a time.
    """
    files, held = folder / "files", folder / "inputs"
    for made in (files, held):
        made.mkdir()

    def find(name: str) -> Path:
        wanted = task["inputs"][name]
        entry = FileEntry.model_validate(wanted["entry"])
        artifact = _artifact(wanted["store"], wanted["manifest"]) if wanted["manifest"] else None
        if artifact and wanted["shared"]:
            return artifact.path(entry.path)
        target = held / f"{name}{Path(entry.path).suffix}"
        if target.exists():
            return target
        if artifact:
            artifact.store.fetch(artifact, entry, target)
        else:
            Stored(store_at(wanted["store"]), entry).fetch(target)
        return target

    return Work(task["settings"], task["aside"], files, threads, find)


def work_here(spec: ShardSpec, folder: Path, held: Path) -> Work:
    """What the function of a shard is given in this process, which uses the host's cache; `folder` is empty, and in
    `held` are copies of what no artifact has."""

    def find(name: str) -> Path:
        source = spec.inputs[name]
        if isinstance(source, Source):
            return source.artifact.path(source.entry.path)
        target = held / f"{name}{Path(source.entry.path).suffix}"
        if not target.exists():
            source.fetch(target)
        return target

    return Work(spec.settings, spec.aside, folder, None, find)


@functools.cache
def store_at(uri: str) -> ArtifactStore:
    """The store, opened once per process."""
    return ArtifactStore.open(uri)


@functools.lru_cache(maxsize=8)
def _artifact(uri: str, manifest: str) -> Artifact:
    return store_at(uri).get(manifest)
