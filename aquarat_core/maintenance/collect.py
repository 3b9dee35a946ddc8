"""Garbage collection: removes objects that nothing needs, but none that a process may still be writing.

It keeps everything that can be reached, with all ancestors, from refs, pins, names, the hashes that a caller gives
(Dagster's materializations) and the inputs of recently active jobs; and everything younger than a day, reachable or
not. Records of shards and their files are kept as long as unfinished training, and after that while a kept artifact
has all of their files, so that adding one shard next month makes only that one. A publication that finds a blob in
place touches it, and an object that was touched or written after it was listed is not deleted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore
from aquarat_core.artifacts.backend import Stat
from aquarat_core.artifacts.manifest import canonical
from aquarat_core.artifacts.names import names
from aquarat_core.artifacts.records import READERS, ResultRecord, SpecRecord, parse_job_record, read_each
from aquarat_core.artifacts.store import asset_of, blob_key
from aquarat_core.artifacts.survey import ancestry, pins, read_artifacts, refs
from aquarat_core.artifacts.transfer import parallel_map
from aquarat_core.maintenance.shards import files_of, old_shards

DAY = 86_400.0
GRACE = DAY
WORK_RETENTION = 7 * DAY
"""Unfinished training is kept for this long after its last checkpoint, the result of a shard after its last use."""
JOB_RETENTION = 30 * DAY
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Garbage:
    """Objects that can be removed; `remove` does it in the necessary order."""

    objects: tuple[Stat, ...]
    kept: int
    """Manifests that are kept."""
    problems: tuple[str, ...] = ()
    """Objects that cannot be read; everything that they may refer to is kept."""

    @property
    def bytes(self) -> int:
        return sum(stat.size for stat in self.objects)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of the objects in each top-level folder."""
        found: dict[str, tuple[int, int]] = {}
        for stat in self.objects:
            kind = stat.key.split("/")[0]
            number, size = found.get(kind, (0, 0))
            found[kind] = number + 1, size + stat.size
        return found


def find_garbage(store: ArtifactStore, keep: Iterable[str] = (), *, now: float | None = None) -> Garbage:
    """Objects that nothing needs. `keep` are hashes of further manifests to keep; `now` is in seconds since 1970.

    An unreadable ref keeps every artifact of its asset, an unreadable pin the artifact that its name refers to; an
    unreadable name, and an unreadable `spec.json` of a recently active job, keep every artifact; `Garbage.problems`
    names them.

    Raises `ArtifactError` if a manifest that must be kept cannot be read, because its blobs are then unknown.
    """
    now = time.time() if now is None else now
    manifests = list(store.backend.stats("manifests/"))
    blobs = list(store.backend.stats("blobs/"))
    jobs = list(store.backend.stats("jobs/"))
    fresh = {_hash(s) for s in manifests if now - s.modified < GRACE}
    there = {_hash(s) for s in manifests}
    roots, problems = _roots(store, jobs, there, now)
    kept = ancestry(store, {*roots, *keep, *fresh} & there)
    if bad := [str(e) for sha256, e in kept.items() if not isinstance(e, Artifact) and sha256 in there]:
        more = f" And {len(bad) - _SHOWN} more." if len(bad) > _SHOWN else ""
        raise ArtifactError(
            "nothing is removed while manifests are damaged, because the files that they need are unknown. Repair them "
            f"or remove the objects manifests/<hash>.json in {store.uri}. {' '.join(bad[:_SHOWN])}{more}"
        )
    needed = {
        blob_key(entry.digest)
        for artifact in kept.values()
        if isinstance(artifact, Artifact)
        for entry in (*artifact.manifest.files, *artifact.manifest.records)
    }
    shards = old_shards(store, now - WORK_RETENTION, needed)
    needed |= shards.needed
    old = [s for s in (*manifests, *blobs) if now - s.modified >= GRACE]
    unneeded = [s for s in old if s.key not in needed and _hash(s) not in kept]
    left = [s for s in store.backend.stats("tmp/") if now - s.modified >= GRACE]
    work = _long_unused(store.backend.stats("work/"), now - WORK_RETENTION, parts=3)
    removed = (*unneeded, *shards.old, *left, *work, *_long_unused(jobs, now - JOB_RETENTION, parts=2))
    return Garbage(removed, len(kept), (*problems, *shards.problems))


def remove(store: ArtifactStore, garbage: Garbage) -> tuple[Stat, ...]:
    """Deletes the objects and returns the deleted ones; objects touched meanwhile are kept.

    Manifests and records of shards go before the blobs that they name. If a record was used meanwhile, its files stay.
    """
    gone: list[Stat] = []
    used: set[str] = set()
    for first in ("manifests/", "shards/", ""):
        left = [s for s in garbage.objects if _turn(s.key) == first and s.key not in used]
        deleted = parallel_map(lambda stat: store.backend.delete(stat.key, stat), left, READERS)
        gone += [stat for stat, ok in zip(left, deleted, strict=True) if ok]
        if first == "shards/":
            used = files_of(store, [stat.key for stat, ok in zip(left, deleted, strict=True) if not ok])
    return tuple(gone)


def _turn(key: str) -> str:
    return next((first for first in ("manifests/", "shards/") if key.startswith(first)), "")


def clock(store: ArtifactStore) -> float:
    """The time by the clock that dates the store's objects, because this host's may be wrong by more than a day."""
    store.backend.write("checks/clock.json", canonical({"at": time.time()}))
    return next(s.modified for s in store.backend.stats("checks/clock.json"))


def _hash(stat: Stat) -> str:
    return stat.key.rpartition("/")[2].removesuffix(".json")


def _roots(store: ArtifactStore, jobs: list[Stat], there: set[str], now: float) -> tuple[set[str], tuple[str, ...]]:
    """Manifests that refs, pins, names and living jobs name, or may name if they cannot be read; and the unreadable
    objects."""
    named, pinned, given = refs(store), pins(store), names(store)
    inputs, unread = _needs_of_jobs(store, jobs, now)
    read = [r for r in (*named.values(), *pinned.values(), *given.values()) if not isinstance(r, ArtifactError)]
    roots = {*inputs, *pinned, *(r.manifest_sha256 for r in read)}
    bad_pins = {name: e for name, e in pinned.items() if isinstance(e, ArtifactError)}
    bad_names = [e for e in given.values() if isinstance(e, ArtifactError)]
    bad_refs = {name: e for name, e in named.items() if isinstance(e, ArtifactError)}
    if unread or bad_names or bad_pins.keys() - there:
        roots |= there
    elif bad_refs:
        assets = {asset_of(name) for name in bad_refs}
        # An unreadable manifest may also belong to that asset.
        roots |= {
            h for h, a in read_artifacts(store, there).items() if isinstance(a, ArtifactError) or a.asset in assets
        }
    return roots, tuple(str(e) for e in (*bad_refs.values(), *bad_pins.values(), *bad_names, *unread))


def _needs_of_jobs(store: ArtifactStore, jobs: list[Stat], now: float) -> tuple[set[str], list[ArtifactError]]:
    """Manifests of living jobs' inputs and of finished jobs' results, and problems with those jobs' records.

    A job is alive while it writes something at least once a day. A result only becomes its asset's latest artifact when
    its run's worker collects it, which a resumed run may do days later, so it is kept as long as unfinished training.
    """
    active = {"/".join(s.key.split("/")[:4]) for s in jobs if now - s.modified < GRACE}
    keys = [s.key for s in jobs if s.key.removesuffix("/spec.json") in active]
    keys += [s.key for s in jobs if s.key.endswith("/result.json") and now - s.modified < WORK_RETENTION]
    hashes: set[str] = set()
    unread: list[ArtifactError] = []
    for _, found in read_each(store.backend, keys, _named_by):
        if isinstance(found, ArtifactError):
            unread.append(found)
        else:
            hashes |= found
    return hashes, unread


def _named_by(data: bytes, uri: str) -> set[str]:
    """Manifests that a spec or a result names."""
    if uri.endswith("/result.json"):
        made = parse_job_record(ResultRecord, data, uri).manifest_sha256
        return {made} if made else set()
    return {parent.manifest_sha256 for parent in parse_job_record(SpecRecord, data, uri).inputs.values()}


def _long_unused(stats: Iterable[Stat], before: float, parts: int) -> list[Stat]:
    """Objects in folders (the first `parts` parts of a key) in which nothing was written since `before`."""
    folders: dict[str, list[Stat]] = {}
    for stat in stats:
        folders.setdefault("/".join(stat.key.split("/")[:parts]), []).append(stat)
    return [s for group in folders.values() if max(s.modified for s in group) < before for s in group]
