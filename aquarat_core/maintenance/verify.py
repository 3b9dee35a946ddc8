"""Checks a store: every claim of a manifest, ref, pin or record of a shard that the store itself can confirm or refute.

docs/store.md lists what this proves, and what it cannot prove.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, Digest, FileEntry
from aquarat_core.artifacts.backend import Stat
from aquarat_core.artifacts.bounded import printable
from aquarat_core.artifacts.names import names
from aquarat_core.artifacts.records import Pin, Ref
from aquarat_core.artifacts.store import asset_of, blob_key
from aquarat_core.artifacts.survey import all_artifacts, ancestry, pins, refs
from aquarat_core.artifacts.transfer import OnBytes, no_progress, parallel_map
from aquarat_core.maintenance.shards import BLOBS_AT_ONCE, wrong_shards

Found = Mapping[str, Artifact | ArtifactError]
Claim = tuple[Artifact, FileEntry]


@dataclass(frozen=True, slots=True)
class Verification:
    """How much was checked, and the problems found: one sentence each, with what to do."""

    artifacts: int
    files: int
    bytes: int
    bytes_read: int
    problems: tuple[str, ...]


def verify(
    store: ArtifactStore, hashes: Iterable[str] | None = None, *, read: bool = True, advance: OnBytes = no_progress
) -> Verification:
    """Checks those artifacts with their ancestors; by default all artifacts, refs, pins, names and shards.

    With `read`, every byte is read and hashed; without, sizes are compared, and CRC-32C if the store keeps it.
    """
    if hashes is None:
        named, pinned, given = refs(store), pins(store), names(store)
        found = all_artifacts(store)
        held = (*named.values(), *pinned.values(), *given.values())
        wanted = {r.manifest_sha256 for r in held if not isinstance(r, ArtifactError)}
        found |= ancestry(store, wanted - set(found))
        problems = [
            *_wrong_refs(store, named, found),
            *_wrong_pins(store, pinned, found),
            *_wrong_names(store, given, found),
        ]
    else:
        found, problems = ancestry(store, hashes), []
    problems += [str(a) for a in found.values() if not isinstance(a, Artifact)]
    artifacts = [a for a in found.values() if isinstance(a, Artifact)]
    problems += [p for artifact in artifacts for p in _wrong_parents(artifact, found)]
    claims: dict[str, dict[Digest, list[Claim]]] = {}
    for artifact in artifacts:
        for entry in (*artifact.manifest.files, *artifact.manifest.records):
            claims.setdefault(entry.sha256, {}).setdefault(entry.digest, []).append((artifact, entry))
    there = {stat.key: stat for stat in store.backend.stats("blobs/")}

    def check(claimed: dict[Digest, list[Claim]]) -> list[str]:
        # The bytes are read once, however many manifests name them, and compared with the claims of each.
        key = blob_key(next(iter(claimed)))
        stat = there.get(key)
        got = store.backend.digest(key, advance) if read and stat else None
        digests = {claim: got if read else _as_listed(stat, claim) for claim in claimed}
        return [p for c, digest in digests.items() if digest != c for p in _wrong_files(store, claimed[c], digest)]

    problems += [p for wrong in parallel_map(check, claims.values(), BLOBS_AT_ONCE) for p in wrong]
    if hashes is None:
        checked = {_key_of(sha256) for sha256 in claims}
        problems += wrong_shards(store, there, checked, read=read, advance=advance)
    sizes = {sha256: there[key].size for sha256 in claims if (key := _key_of(sha256)) in there}
    size = sum(sizes.values())
    return Verification(len(artifacts), len(claims), size, size if read else 0, tuple(sorted(set(problems))))


def _wrong_files(store: ArtifactStore, claims: list[Claim], got: Digest | None) -> Iterator[str]:
    """Problems with a blob, reported once, and with each of the `claims` about it."""
    artifact, entry = claims[0]
    if got is None or got.sha256 != entry.sha256:
        yield store.describe_damage(artifact, entry, got)
        return
    for artifact, entry in claims:
        yield (
            f"{store.describe_damage(artifact, entry, got)} The manifest says {entry.size:,} bytes, CRC-32C "
            f"{printable(entry.crc32c)}; there are {got.size:,}, CRC-32C {got.crc32c}"
        )


def _wrong_parents(artifact: Artifact, found: Found) -> Iterator[str]:
    """A manifest's false claims about its parents."""
    origin = f"{artifact.asset} (manifest {artifact.sha256[:12]})"
    for said in artifact.manifest.parents:
        if said.manifest_sha256 not in found:
            yield (
                f"{origin} was made from {said.asset} (manifest {said.manifest_sha256[:12]}), which is not in "
                f"{artifact.store.uri}: its ancestry can no longer be followed"
            )
        elif isinstance(parent := found[said.manifest_sha256], Artifact) and said != parent.as_parent():
            true = parent.as_parent()
            wrong = [
                f"{name} {printable(getattr(said, name))}, but it is {printable(getattr(true, name))}"
                for name in ("asset", "data_version", "run_id")
                if getattr(said, name) != getattr(true, name)
            ]
            yield (
                f"{origin} makes false claims about its parent, manifest {said.manifest_sha256[:12]}: "
                f"{'; '.join(wrong)}. Its ancestry is not proved: materialize {artifact.asset} again"
            )


def _wrong_refs(store: ArtifactStore, named: dict[str, Ref | ArtifactError], found: Found) -> Iterator[str]:
    """Refs that cannot be read, or contradict the manifest that they name."""
    for name, ref in named.items():
        asset = asset_of(name)
        if isinstance(ref, ArtifactError):
            yield str(ref)
        elif isinstance(artifact := found.get(ref.manifest_sha256), Artifact):
            if (ref.asset, artifact.asset) != (asset, asset):
                other = artifact.asset if artifact.asset != asset else ref.asset
                wrong = f"names {other} (manifest {artifact.sha256[:12]}), which is not {asset}"
            elif ref.data_version != artifact.data_version:
                wrong = f"gives its artifact the data version {ref.data_version}, but it is {artifact.data_version}"
            else:
                continue
            yield f"ref {store.uri}/refs/{name}/latest.json {wrong}: materialize {name} again, or remove the object"


def _wrong_pins(store: ArtifactStore, pinned: dict[str, Pin | ArtifactError], found: Found) -> Iterator[str]:
    """Pins that cannot be read, or do not pin the artifact in their name."""
    for name, pin in pinned.items():
        if isinstance(pin, ArtifactError):
            yield str(pin)
            continue
        artifact = found.get(pin.manifest_sha256)
        if pin.manifest_sha256 != name or (isinstance(artifact, Artifact) and artifact.asset != pin.asset):
            yield (
                f"pin {store.uri}/pins/{printable(name)}.json pins {pin.asset} (manifest {pin.manifest_sha256[:12]}), "
                "which contradicts its name or that manifest: remove the object and pin the artifact again"
            )


def _wrong_names(store: ArtifactStore, given: dict[str, Ref | ArtifactError], found: Found) -> Iterator[str]:
    """Names that cannot be read, or say something else about their artifact than it does."""
    for name, ref in given.items():
        if isinstance(ref, ArtifactError):
            yield str(ref)
            continue
        artifact = found.get(ref.manifest_sha256)
        if isinstance(artifact, Artifact) and (ref.asset, ref.data_version) != (artifact.asset, artifact.data_version):
            yield (
                f"name {store.uri}/names/{name}.json contradicts manifest {ref.manifest_sha256[:12]}: give it again "
                f"with `aquarat name {ref.manifest_sha256[:12]} {name} --move`"
            )


def _key_of(sha256: str) -> str:
    return blob_key(Digest(0, sha256, ""))


def _as_listed(stat: Stat | None, entry: Digest) -> Digest | None:
    """The digest as far as the listing shows it, completed with values from `entry`."""
    return None if stat is None else Digest(stat.size, entry.sha256, stat.crc32c or entry.crc32c)
