"""Does a store hold what it says? Every manifest, every file it lists and every parent it names, checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aquarat_core.artifacts import Artifact, ArtifactStore, Digest, FileEntry
from aquarat_core.artifacts.backend import Stat
from aquarat_core.artifacts.store import blob_key
from aquarat_core.artifacts.transfer import Advance, each, ignore
from aquarat_core.upkeep.survey import all_artifacts, ancestry, refs

BLOBS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and what is wrong: one sentence for each, with the way out."""

    artifacts: int
    files: int
    bytes: int
    bytes_read: int
    problems: tuple[str, ...]


def verify(
    store: ArtifactStore, hashes: Iterable[str] | None = None, *, read: bool = True, advance: Advance = ignore
) -> Verification:
    """Checks those artifacts with their ancestors, or all that there are and what the refs name.

    With `read` every byte is read and hashed; without, sizes are compared, and CRC-32C where the store keeps it.
    """
    named = refs(store)
    if hashes is None:
        found = all_artifacts(store)
        found |= ancestry(store, {*named.values()} - set(found))
    else:
        found = ancestry(store, hashes)
    problems = [str(a) for a in found.values() if not isinstance(a, Artifact)]
    artifacts = [a for a in found.values() if isinstance(a, Artifact)]
    for artifact in artifacts:
        problems += [
            f"{artifact.asset} (manifest {artifact.sha256[:12]}) was made from {p.asset} (manifest "
            f"{p.manifest_sha256[:12]}), which is not in {store.uri}: its ancestry can no longer be followed"
            for p in artifact.manifest.parents
            if p.manifest_sha256 not in found
        ]
    users: dict[str, tuple[Artifact, FileEntry]] = {}
    for artifact in artifacts:
        for entry in (*artifact.manifest.files, *artifact.manifest.records):
            users.setdefault(entry.sha256, (artifact, entry))
    there = {stat.key: stat for stat in store.backend.stats("blobs/")}

    def check(user: tuple[Artifact, FileEntry]) -> str | None:
        artifact, entry = user
        stat = there.get(blob_key(entry.digest))
        got = store.backend.digest(blob_key(entry.digest), advance) if read and stat else _as_listed(stat, entry)
        return None if got == entry.digest else store.damage(artifact, entry, got)

    problems += [p for p in each(check, users.values(), BLOBS_AT_ONCE) if p]
    size = sum(entry.size for _, entry in users.values())
    return Verification(len(artifacts), len(users), size, size if read else 0, tuple(sorted(problems)))


def _as_listed(stat: Stat | None, entry: FileEntry) -> Digest | None:
    """The digest as far as a listing shows it, completed from `entry` where it shows nothing."""
    return None if stat is None else Digest(stat.size, entry.sha256, stat.crc32c or entry.crc32c)
