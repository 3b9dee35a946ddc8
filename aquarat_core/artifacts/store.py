"""Publishing artifacts and reading them back, on any backend.

Publishing writes blobs, then the manifest, then moves the ref: a writer killed anywhere leaves at most blobs that no
manifest names, and the same publication run again finds and keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from aquarat_core.artifacts.backend import Backend, open_backend
from aquarat_core.artifacts.cache import Cache
from aquarat_core.artifacts.environment import hardware, libraries
from aquarat_core.artifacts.errors import ArtifactError, StoreError
from aquarat_core.artifacts.hashing import digest_bytes, digest_file
from aquarat_core.artifacts.job import JobDir, job_dir
from aquarat_core.artifacts.lineage import rebuild_advice
from aquarat_core.artifacts.manifest import CodeVersion, FileEntry, Manifest, Parent, Scalar, canonical
from aquarat_core.settings import cache_dir

_SWAP_TRIES = 100
_MIN_HASH = 6


class ArtifactStore:
    """Everything anyone does with artifacts. Open one with `ArtifactStore.open(uri)`."""

    def __init__(self, backend: Backend, cache: Cache) -> None:
        self.uri = backend.uri
        self._backend = backend
        self._cache = cache

    @classmethod
    def open(cls, uri: str) -> ArtifactStore:
        """The store at `file:///absolute/path`, `gs://bucket/prefix` or `memory://name`; touches nothing yet."""
        return cls(open_backend(uri), Cache(cache_dir()))

    def check_writable(self) -> None:
        """Writes a small object the two ways that publishing needs. Raises `StoreError` where that fails."""
        key = "checks/writable.json"
        current = self._backend.read(key)
        mark = canonical({"writable": True})
        if current is None:
            self._backend.create(key, mark)
        else:
            self._backend.swap(key, mark, current.version)

    def publish(
        self,
        *,
        asset: str,
        kind: str,
        directory: Path,
        records: Path | None = None,
        config: Mapping[str, Any],
        profile: str,
        code: CodeVersion,
        parents: Iterable[Parent],
        metrics: Mapping[str, Scalar],
        seeds: Mapping[str, int],
        run_id: str,
        wandb: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Makes the files under `directory` (and `records`) the asset's latest artifact.

        Raises `ArtifactError` for files or fields that cannot be published and `StoreError` where the store fails; the
        asset's latest artifact is then still the one before.
        """
        content, extra = _entries(directory), _entries(records) if records else {}
        if not content:
            raise ArtifactError(f"cannot publish {asset}: {directory} holds no file")
        manifest = Manifest.create(
            asset=asset,
            kind=kind,
            files=tuple(content.values()),
            records=tuple(extra.values()),
            config=dict(config),
            profile=profile,
            code=code,
            parents=tuple(parents),
            metrics=dict(metrics),
            seeds=dict(seeds),
            libraries=libraries(),
            hardware=hardware(),
            run_id=run_id,
            wandb=dict(wandb) if wandb else None,
        )
        for path, entry in [*content.items(), *extra.items()]:
            self._backend.put_file(_blob_key(entry), path, entry.digest)
        sha256 = manifest.sha256
        self._backend.create(_manifest_key(sha256), manifest.to_bytes())
        self._move_ref(asset, sha256, manifest.data_version)
        return Artifact(self, manifest, sha256)

    def has(self, manifest_sha256: str) -> bool:
        return self._backend.size(_manifest_key(manifest_sha256)) is not None

    def get(self, manifest_sha256: str) -> Artifact:
        """The artifact of that manifest. Raises `ArtifactError` if it is missing or damaged."""
        found = self._backend.read(_manifest_key(manifest_sha256))
        if found is None:
            raise ArtifactError(
                f"no manifest {manifest_sha256} in {self.uri}: is AQUARAT_STORE the store that it was published to?"
            )
        if digest_bytes(found.data).sha256 != manifest_sha256:
            raise ArtifactError(f"manifest {manifest_sha256} in {self.uri} is damaged: materialize its asset again")
        return Artifact(self, Manifest.from_bytes(found.data), manifest_sha256)

    def latest(self, asset: str) -> Artifact | None:
        """The asset's artifact that was published last, or None where there is none."""
        found = self._backend.read(_ref_key(asset))
        return None if found is None else self.get(json.loads(found.data)["manifest_sha256"])

    def assets(self) -> list[str]:
        """Names of all assets with a latest artifact."""
        return [key.split("/")[1] for key in self._backend.keys("refs/") if key.endswith("/latest.json")]

    def resolve(self, asset_or_manifest: str) -> Artifact:
        """The latest artifact of an asset, or the one of a manifest hash (six digits are enough if they are unique)."""
        wanted = asset_or_manifest.lower()
        if len(wanted) >= _MIN_HASH and set(wanted) <= set("0123456789abcdef"):
            found = [Path(key).stem for key in self._backend.keys(f"manifests/{wanted}")]
            if len(found) > 1:
                raise ArtifactError(f"{len(found)} manifests in {self.uri} start with {wanted}: give more digits")
            if found:
                return self.get(found[0])
        assets = self.assets()
        if asset_or_manifest in assets and (artifact := self.latest(asset_or_manifest)):
            return artifact
        known = f"it has {', '.join(assets)}" if assets else "it is empty: materialize an asset first"
        raise ArtifactError(f"{self.uri} has no asset or manifest {asset_or_manifest!r}; {known}")

    def job(self, run_id: str, step_key: str, attempt: int) -> JobDir:
        """The folder of one attempt at one step."""
        return job_dir(self._backend, run_id, step_key, attempt)

    def _move_ref(self, asset: str, manifest_sha256: str, data_version: str) -> None:
        ref = canonical({"asset": asset, "manifest_sha256": manifest_sha256, "data_version": data_version})
        key = _ref_key(asset)
        for _ in range(_SWAP_TRIES):
            current = self._backend.read(key)
            if current is None:
                moved = self._backend.create(key, ref)
            else:
                moved = current.data == ref or self._backend.swap(key, ref, current.version)
            if moved:
                return
        raise StoreError(f"{self.uri}/{key} is moved by others all the time: is a loop publishing {asset}?")

    def _has_all(self, entries: Iterable[FileEntry]) -> bool:
        return all(self._backend.size(_blob_key(e)) == e.size for e in entries)

    def _local_copy(self, artifact: Artifact, name: str, what: Literal["files", "records"]) -> Path:
        entries: tuple[FileEntry, ...] = getattr(artifact.manifest, what)
        entry = next((e for e in entries if e.path == name), None)
        if entry is None:
            known = ", ".join(e.path for e in entries) or "none"
            raise ArtifactError(f"{artifact.asset} ({artifact.uri}) has no {name} among its {what}: {known}")
        return self._cache.file(f"{artifact.sha256}/{what}", entry, partial(self._fetch, artifact, entry))

    def _fetch(self, artifact: Artifact, entry: FileEntry, target: Path) -> None:
        got = self._backend.get_file(_blob_key(entry), target)
        if got == entry.digest:
            return
        wrong = "is missing" if got is None else "is damaged, its bytes are not those that were published"
        origin = f"{artifact.asset} (manifest {artifact.sha256[:12]}, run {artifact.manifest.run_id})"
        raise ArtifactError(
            f"file {entry.path} of {origin} {wrong}: {self.uri}/{_blob_key(entry)}. "
            f"{rebuild_advice(self, artifact.manifest)}"
        )


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published artifact. `sha256` is its manifest's; files come as verified local copies, to be read only."""

    store: ArtifactStore
    manifest: Manifest
    sha256: str

    @property
    def asset(self) -> str:
        return self.manifest.asset

    @property
    def data_version(self) -> str:
        return self.manifest.data_version

    @property
    def uri(self) -> str:
        return f"{self.store.uri}/{_manifest_key(self.sha256)}"

    def as_parent(self) -> Parent:
        """How the manifest of an artifact made from this one names it."""
        return Parent(
            asset=self.asset,
            manifest_sha256=self.sha256,
            data_version=self.data_version,
            run_id=self.manifest.run_id,
        )

    def path(self, name: str) -> Path:
        """Local path of a content file. Raises `ArtifactError` if it is not one, missing or damaged."""
        return self.store._local_copy(self, name, "files")

    def record(self, name: str) -> Path:
        """Local path of a record, like `metrics.jsonl`. Raises as `path` does."""
        return self.store._local_copy(self, name, "records")

    def directory(self) -> Path:
        """Local directory with all content files under their paths. Raises as `path` does."""
        paths = {entry.path: self.path(entry.path) for entry in self.manifest.files}
        name, path = paths.popitem()
        return path.parents[len(Path(name).parts) - 1]

    def is_complete(self) -> bool:
        """Whether the store has every file at its size; the bytes are not read."""
        return self.store._has_all((*self.manifest.files, *self.manifest.records))


def _blob_key(entry: FileEntry) -> str:
    return f"blobs/sha256/{entry.sha256[:2]}/{entry.sha256}"


def _manifest_key(sha256: str) -> str:
    return f"manifests/{sha256}.json"


def _ref_key(asset: str) -> str:
    return f"refs/{asset}/latest.json"


def _entries(directory: Path) -> dict[Path, FileEntry]:
    """Every file under `directory` with its entry, sorted by path in it."""
    found: dict[str, Path] = {}
    for path in directory.rglob("*"):
        if path.is_symlink():
            raise ArtifactError(f"cannot publish {path}: it is a symbolic link, whose target could change")
        if path.is_file():
            found[path.relative_to(directory).as_posix()] = path
    entries = {}
    for name in sorted(found):
        digest = digest_file(found[name])
        entries[found[name]] = FileEntry(path=name, size=digest.size, sha256=digest.sha256, crc32c=digest.crc32c)
    return entries
