"""Records of shards, as garbage collection and `verify` see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from aquarat_core.artifacts import ArtifactError, ArtifactStore
from aquarat_core.artifacts.backend import Stat
from aquarat_core.artifacts.store import blob_key
from aquarat_core.artifacts.survey import READERS
from aquarat_core.artifacts.transfer import OnBytes, parallel_map
from aquarat_core.sharding.records import PREFIX, ShardRecord, disputed_in, read_shard_record


@dataclass(frozen=True, slots=True)
class OldShards:
    """What garbage collection has to know of them."""

    old: tuple[Stat, ...]
    """Records that can be removed."""
    needed: frozenset[str]
    """Keys of the blobs of the others."""
    problems: tuple[str, ...]
    """Records that cannot be read. Their shard is made again when it is wanted, so their files are not kept."""


def old_shards(store: ArtifactStore, before: float, needed: set[str]) -> OldShards:
    """Divides the records: those last used before `before` are old, unless all of their files are `needed` anyway.

    The two results of a disputed shard stay until someone has removed one.
    """
    disputed = set(disputed_in(stat.key for stat in store.backend.stats(PREFIX)))
    old: list[Stat] = []
    kept = set[str]()
    problems: list[str] = []
    for stat, record in _records(store):
        if not isinstance(record, ShardRecord):
            problems.append(str(record))
        files = _blobs(record)
        if stat.modified >= before or (files and files <= needed) or stat.key.rpartition("/")[0] in disputed:
            kept |= files
        else:
            old.append(stat)
    return OldShards(tuple(old), frozenset(kept), tuple(problems))


def files_of(store: ArtifactStore, keys: Iterable[str]) -> set[str]:
    """Keys of the blobs that the records at these keys name, as far as they are there."""
    found = parallel_map(lambda key: _read(store, key), keys, READERS)
    return {blob for record in found for blob in _blobs(record)}


def wrong_shards(
    store: ArtifactStore, there: Mapping[str, Stat], checked: set[str], *, read: bool, advance: OnBytes
) -> Iterator[str]:
    """Problems with the records: unreadable ones, shards with two results, and files that are missing or damaged.

    `checked` are the keys of blobs whose bytes are reported on already.
    """
    for key in disputed_in(stat.key for stat in store.backend.stats(PREFIX)):
        yield (
            f"{store.uri}/{key}/ has two different results of one shard: remove the wrong one; the stage makes nothing "
            "from it until then"
        )
    for stat, record in _records(store):
        if not isinstance(record, ShardRecord):
            yield str(record)
            continue
        for entry in record.files:
            blob = blob_key(entry.digest)
            found = there.get(blob)
            good = found is not None and found.size == entry.size
            if good and read and blob not in checked:
                good = store.backend.digest(blob, advance) == entry.digest
            if not good:
                yield (
                    f"shard {record.name} of {record.stage} ({store.uri}/{stat.key}): its file {entry.path} is missing "
                    f"or damaged ({store.uri}/{blob}). The next run of {record.stage} makes it again"
                )


def _records(store: ArtifactStore) -> Iterator[tuple[Stat, ShardRecord | ArtifactError]]:
    stats = [stat for stat in store.backend.stats(PREFIX) if stat.key.endswith(".json")]
    for start in range(0, len(stats), _AT_ONCE):
        part = stats[start : start + _AT_ONCE]
        read = parallel_map(lambda stat: _read(store, stat.key), part, READERS)
        yield from ((stat, record) for stat, record in zip(part, read, strict=True) if record is not None)


_AT_ONCE = 1_000


def _read(store: ArtifactStore, key: str) -> ShardRecord | ArtifactError | None:
    found = store.backend.read(key)
    if found is None:
        return None
    try:
        return read_shard_record(found.data, f"{store.uri}/{key}")
    except ArtifactError as e:
        return e


def _blobs(record: ShardRecord | ArtifactError | None) -> set[str]:
    return {blob_key(entry.digest) for entry in record.files} if isinstance(record, ShardRecord) else set()
