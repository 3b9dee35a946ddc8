"""The results of shards in a store, which every host and every later run finds again.

    shards/<stage>/<key>/<digest>.json   one result of the shard with that key: its files, which are blobs, and counts

The digest is that of files and counts. A pure function has one result, so two records with one key mean that it is not
pure, or that a machine computes wrongly. Both stay, and nothing is made from that shard until one is removed.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

from pydantic import BaseModel, ConfigDict, Field

from aquarat_core.artifacts import ArtifactError, ArtifactStore, FileEntry
from aquarat_core.artifacts.backend import Stat
from aquarat_core.artifacts.bounded import parse_as
from aquarat_core.artifacts.hashing import digest_bytes
from aquarat_core.artifacts.manifest import MAX_ENTRIES, MAX_FILES, Name, Scalar, Sha256, Text, canonical
from aquarat_core.artifacts.records import READERS
from aquarat_core.artifacts.store import blob_key
from aquarat_core.artifacts.transfer import parallel_map
from aquarat_core.errors import StageError
from aquarat_core.sharding.spec import Counts

PREFIX = "shards/"
FEW = 64
"""Up to this many keys are looked up one by one; for more, all records of the stage are listed at once."""
REFRESHED_AFTER = 86_400.0
"""Seconds after which a record that is used is dated anew, long before garbage collection may remove it."""
_REMEDY = "Remove the object; the shard is then made again."


class DisputedError(StageError):
    """A shard with two different results."""


class ShardRecord(BaseModel):
    """One result of a shard."""

    model_config = ConfigDict(extra="allow", frozen=True)

    stage: Name
    key: Sha256
    name: Text
    files: Annotated[tuple[FileEntry, ...], Field(max_length=MAX_FILES)]
    counts: Annotated[dict[str, Scalar], Field(max_length=MAX_ENTRIES)]
    seconds: Annotated[float, Field(ge=0)]
    host: Text

    def file(self, path: str) -> FileEntry:
        """One of its files. Raises `KeyError`."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise KeyError(f"shard {self.name} has no file {path}")

    @property
    def digest(self) -> str:
        """SHA-256 of the result, without the time and place at which it was made."""
        files = [[f.path, f.size, f.sha256] for f in self.files]
        return digest_bytes(canonical({"files": files, "counts": self.counts})).sha256

    def to_bytes(self) -> bytes:
        return canonical(self.model_dump(mode="json"))


def read_shard_record(data: bytes, uri: str) -> ShardRecord:
    """Parses the record at `uri`. Raises `RecordError`."""
    return parse_as(ShardRecord, data, f"shard record {uri}", _REMEDY)


def disputed_in(keys: Iterable[str]) -> list[str]:
    """The folders, among keys of objects, of shards with more than one result."""
    results = Counter(key.rpartition("/")[0] for key in keys if key.endswith(".json"))
    return [folder for folder, number in results.items() if number > 1]


@dataclass(frozen=True, slots=True)
class ShardStore:
    """The records of one stage in a store."""

    store: ArtifactStore
    stage: str

    def find(self, keys: Iterable[str]) -> dict[str, ShardRecord]:
        """The results that are there, complete and undamaged, by key.

        Raises `DisputedError` if one of the shards has two results.
        """
        listed = self._listed(set(keys))
        for found in listed.values():
            if len(found) > 1:
                raise self._disputed([stat.key for stat in found])
        stats = [found[0] for found in listed.values()]
        records = parallel_map(self._usable, stats, READERS)
        return {record.key: record for record in records if record is not None}

    def find_one(self, key: str) -> ShardRecord | None:
        """Like `find`, for one key."""
        return self.find([key]).get(key)

    def add(self, key: str, name: str, folder: Path, counts: Counts, seconds: float) -> ShardRecord:
        """Stores the files of a folder and then the record of the result.

        Raises `DisputedError` if there is another result with this key; the record of this one stays too.
        """
        # Later readers have the counts from JSON.
        counts = cast(Counts, json.loads(canonical(counts)))
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in paths]
        digests = [self.store.backend.add_file(path, blob_key) for path in paths]
        files = tuple(map(FileEntry.of, names, digests))
        record = ShardRecord(
            stage=self.stage, key=key, name=name, files=files, counts=counts, seconds=round(seconds, 3),
            host=socket.gethostname(),
        )  # fmt: skip
        place = self._place(record)
        if not self.store.backend.create(place, record.to_bytes()):
            # It may be damaged, or old enough to be collected: writing it again prevents both.
            self.store.backend.write(place, record.to_bytes())
        found = list(self.store.backend.keys(self._folder(key)))
        if len(found) > 1:
            raise self._disputed(found, name)
        return record

    def holds(self, record: ShardRecord) -> bool:
        """Whether this store has the record, which another host wrote."""
        return self.store.backend.size(self._place(record)) is not None

    def _folder(self, key: str = "") -> str:
        return f"{PREFIX}{self.stage}/{key}/" if key else f"{PREFIX}{self.stage}/"

    def _place(self, record: ShardRecord) -> str:
        """The key of the record's object."""
        return f"{self._folder(record.key)}{record.digest}.json"

    def _listed(self, keys: set[str]) -> Mapping[str, list[Stat]]:
        backend = self.store.backend
        if len(keys) <= FEW:
            stats = [s for found in parallel_map(lambda k: list(backend.stats(self._folder(k))), keys) for s in found]
        else:
            stats = backend.stats(self._folder())
        listed: dict[str, list[Stat]] = {}
        for stat in stats:
            parts = stat.key.split("/")
            if len(parts) == 4 and parts[2] in keys and parts[3].endswith(".json"):
                listed.setdefault(parts[2], []).append(stat)
        return listed

    def _usable(self, stat: Stat) -> ShardRecord | None:
        """The record, dated anew if it is old; None if it, or one of its files, is gone or damaged."""
        backend = self.store.backend
        found = backend.read(stat.key)
        if found is None:
            return None
        try:
            record = read_shard_record(found.data, f"{self.store.uri}/{stat.key}")
        except ArtifactError:
            return None
        if stat.key != self._place(record):
            return None
        old = time.time() - stat.modified > REFRESHED_AFTER
        # Garbage collection leaves the files of a record that was written after it was listed.
        if old and not backend.swap(stat.key, found.data, found.version):
            return None
        # Storage that keeps checksums notices damage itself; a local disk does not.
        return record if all(self._is_intact(file, read=stat.crc32c is None) for file in record.files) else None

    def _is_intact(self, entry: FileEntry, *, read: bool) -> bool:
        """Whether the store has the file with the right size. With `read`, its bytes are read and compared, too."""
        backend, key = self.store.backend, blob_key(entry.digest)
        return backend.size(key) == entry.size and (not read or backend.digest(key) == entry.digest)

    def _disputed(self, keys: list[str], name: str = "") -> DisputedError:
        first, second = (Path(key).stem for key in sorted(keys)[:2])
        folder = keys[0].rpartition("/")[0]
        if not name:
            found = self.store.backend.read(keys[0])
            try:
                name = read_shard_record(found.data, keys[0]).name if found else "?"
            except ArtifactError:
                name = "?"
        return DisputedError(
            f"{self.stage}, shard {name}: it was made twice with different results, {first} and {second}, so its "
            "function depends on more than its inputs and settings, or a machine computes wrongly. Nothing is made "
            "from it until this is settled: correct the function, which gives the shard another key, or remove the "
            f"wrong one of the two records in {self.store.uri}/{folder}/"
        )
