"""Records of shards, as garbage collection and `verify` see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from aquarat_core.artifacts import ArtifactError, ArtifactStore, Digest
from aquarat_core.artifacts.backend import Stat
from aquarat_core.artifacts.records import read_each
from aquarat_core.artifacts.store import blob_key
from aquarat_core.artifacts.transfer import OnBytes, parallel_map
from aquarat_core.sharding.records import PREFIX, ShardRecord, disputed_in, read_shard_record

BLOBS_AT_ONCE = 8
"""Blobs that are read and hashed in parallel."""


@dataclass(frozen=True, slots=True)
class OldShards:
    """The records in a store, as far as garbage collection needs to know about them."""

    old: tuple[Stat, ...]
    """Records that can be removed."""
    needed: frozenset[str]
    """Keys of the blobs that the other records name."""
    problems: tuple[str, ...]
    """A message for each record that cannot be read. Their files are not kept: the shards are made again when they are
    needed."""


def old_shards(store: ArtifactStore, before: float, needed: set[str]) -> OldShards:
    """Divides the records: those last used before `before` are old, unless all of their files are `needed` anyway.

    The two results of a disputed shard stay until someone has removed one.
    """
    stats = _listed(store)
    disputed = set(disputed_in(stats))
    old: list[Stat] = []
    kept = set[str]()
    problems: list[str] = []
    for key, record in read_each(store.backend, stats, read_shard_record):
        if not isinstance(record, ShardRecord):
            problems.append(str(record))
        files = _blobs(record)
        if stats[key].modified >= before or (files and files <= needed) or key.rpartition("/")[0] in disputed:
            kept |= files
        else:
            old.append(stats[key])
    return OldShards(tuple(old), frozenset(kept), tuple(problems))


def files_of(store: ArtifactStore, keys: Iterable[str]) -> set[str]:
    """Keys of the blobs that the records at these keys name, as far as they are there."""
    return {blob for _, record in read_each(store.backend, keys, read_shard_record) for blob in _blobs(record)}


def wrong_shards(
    store: ArtifactStore, there: Mapping[str, Stat], checked: set[str], *, read: bool, advance: OnBytes
) -> Iterator[str]:
    """Problems with the records: unreadable ones, shards with two results, and files that are missing or damaged.

    `there` are the blobs of the store, and `checked` the keys of those whose bytes are reported on already.
    """
    stats = _listed(store)
    for folder in disputed_in(stats):
        yield (
            f"{store.uri}/{folder}/ has two different results of one shard: remove the wrong one; the stage makes "
            "nothing from it until then"
        )
    claims: dict[Digest, list[tuple[str, ShardRecord, str]]] = {}
    for key, record in read_each(store.backend, stats, read_shard_record):
        if isinstance(record, ArtifactError):
            yield str(record)
            continue
        for entry in record.files:
            claims.setdefault(entry.digest, []).append((key, record, entry.path))

    def is_intact(digest: Digest) -> bool:
        blob = blob_key(digest)
        found = there.get(blob)
        if found is None or found.size != digest.size or found.crc32c not in (None, digest.crc32c):
            return False
        return not read or blob in checked or store.backend.digest(blob, advance) == digest

    intact = parallel_map(is_intact, claims, BLOBS_AT_ONCE)
    for digest, good in zip(claims, intact, strict=True):
        for key, record, path in () if good else claims[digest]:
            yield (
                f"shard {record.name} of {record.stage} ({store.uri}/{key}): its file {path} is missing or damaged "
                f"({store.uri}/{blob_key(digest)}). The next run of {record.stage} makes it again"
            )


def _listed(store: ArtifactStore) -> dict[str, Stat]:
    """All records, by key."""
    return {stat.key: stat for stat in store.backend.stats(PREFIX) if stat.key.endswith(".json")}


def _blobs(record: ShardRecord | ArtifactError) -> set[str]:
    return {blob_key(entry.digest) for entry in record.files} if isinstance(record, ShardRecord) else set()
