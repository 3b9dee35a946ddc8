"""Publishing artifacts and reading them back, on any backend.

Publishing writes blobs, then the manifest, then moves the ref. A writer killed at any point leaves at most blobs that
no manifest names, and running the same publication again finds and uses them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from aquarat_core.artifacts.backend import Backend
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.cache import Cache
from aquarat_core.artifacts.environment import hardware, libraries
from aquarat_core.artifacts.errors import ArtifactError
from aquarat_core.artifacts.hashing import Digest, digest_bytes
from aquarat_core.artifacts.job import JobDir, job_dir
from aquarat_core.artifacts.manifest import (
    MAX_GENERATIONS,
    NAME,
    CodeVersion,
    FileEntry,
    Manifest,
    Parent,
    Scalar,
    canonical,
)
from aquarat_core.artifacts.names import named
from aquarat_core.artifacts.records import read_ref, ref_bytes, replace_object
from aquarat_core.artifacts.transfer import OnBytes, no_progress, parallel_map
from aquarat_core.settings import cache_dir, cache_limit

_MIN_HASH = 6


class ArtifactStore:
    """Publishes artifacts and reads them. Open a store with `ArtifactStore.open(uri)`."""

    def __init__(self, backend: Backend, cache: Cache) -> None:
        self.uri = backend.uri
        self.backend = backend
        self._cache = cache

    @classmethod
    def open(cls, uri: str) -> ArtifactStore:
        """The store at `file:///absolute/path`, `gs://bucket/prefix` or `memory://name`; does not access it yet."""
        return cls(open_backend(uri), Cache(cache_dir(), cache_limit()))

    def check_writable(self) -> None:
        """Writes a small object in the two ways that publishing needs. Raises `StoreError` if that fails."""
        key = "checks/writable.json"
        current = self.backend.read(key)
        mark = canonical({"writable": True})
        if current is None:
            self.backend.create(key, mark)
        else:
            self.backend.swap(key, mark, current.version)

    def publish(
        self,
        *,
        asset: str,
        kind: str,
        directory: Path,
        records: Path | None = None,
        config: Mapping[str, Any],
        profile: str,
        profile_sha256: str | None = None,
        code: CodeVersion,
        parents: Iterable[Parent],
        metrics: Mapping[str, Scalar],
        seeds: Mapping[str, int],
        run_id: str,
        wandb: Mapping[str, Any] | None = None,
        latest: bool = True,
        stored: Sequence[FileEntry] = (),
        advance: OnBytes = no_progress,
    ) -> Artifact:
        """Publishes the files under `directory` (and `records`) as the asset's latest artifact.

        `stored` are further content files whose blobs are in the store already. `advance` counts the bytes sent.
        Without `latest`, the artifact is published but the asset's ref does not move; `make_latest` moves it.

        Raises `ArtifactError` for files or fields that cannot be published and `StoreError` if the store fails; the
        asset's latest artifact is then unchanged.
        """
        content, extra = _files(directory), _files(records) if records else {}
        if not content and not stored:
            raise ArtifactError(f"cannot publish {asset}: {directory} holds no file")
        manifest = partial(
            Manifest.create,
            asset=asset,
            kind=kind,
            config=dict(config),
            profile=profile,
            profile_sha256=profile_sha256,
            code=code,
            parents=tuple(parents),
            metrics=dict(metrics),
            seeds=dict(seeds),
            libraries=libraries(),
            hardware=hardware(),
            run_id=run_id,
            wandb=dict(wandb) if wandb else None,
        )
        # Raises for fields that no manifest can hold before anything is sent.
        manifest(files=_sorted(*_unhashed(content), *stored), records=_unhashed(extra))
        paths = [*content.values(), *extra.values()]
        digests = dict(
            zip(paths, parallel_map(lambda path: self.backend.add_file(path, blob_key, advance), paths), strict=True)
        )
        files = _sorted(*_entries(content, digests), *stored)
        return self.add_manifest(manifest(files=files, records=_entries(extra, digests)), latest=latest)

    def add_manifest(self, manifest: Manifest, *, latest: bool) -> Artifact:
        """Writes the manifest of files that are in the store; with `latest`, makes it its asset's latest artifact."""
        sha256 = manifest.sha256
        if not self.backend.create(_manifest_key(sha256), manifest.to_bytes()):
            # An existing object may be damaged, or old enough to be collected: writing it again prevents both.
            self.backend.write(_manifest_key(sha256), manifest.to_bytes())
        if latest:
            self._move_ref(manifest.asset, sha256, manifest.data_version)
        return Artifact(self, manifest, sha256)

    def make_latest(self, artifact: Artifact, name: str | None = None) -> None:
        """Moves the asset's ref, or the ref called `name` (as in `latest`), to an artifact that is in the store."""
        self._move_ref(name or artifact.asset, artifact.sha256, artifact.data_version)

    def manifest_uri(self, manifest_sha256: str) -> str:
        """URI of the manifest with that hash in this store."""
        return f"{self.uri}/{_manifest_key(manifest_sha256)}"

    def has(self, manifest_sha256: str) -> bool:
        return self.backend.size(_manifest_key(manifest_sha256)) is not None

    def get(self, manifest_sha256: str) -> Artifact:
        """The artifact of that manifest. Raises `ArtifactError` if it is missing or damaged."""
        found = self.backend.read(_manifest_key(manifest_sha256))
        if found is None:
            raise ArtifactError(
                f"no manifest {manifest_sha256} in {self.uri}: is AQUARAT_STORE the store that it was published to?"
            )
        if digest_bytes(found.data).sha256 != manifest_sha256:
            raise ArtifactError(f"manifest {manifest_sha256} in {self.uri} is damaged: materialize its asset again")
        what = f"manifest {manifest_sha256} in {self.uri}"
        return Artifact(self, Manifest.from_bytes(found.data, what), manifest_sha256)

    def latest(self, name: str) -> Artifact | None:
        """The artifact of an asset that was published last, or None if there is none.

        `name` is the asset's name, or `<experiment>/<asset>` for an asset of a named experiment.
        Raises `ArtifactError` if the ref is damaged or names something other than an artifact of this asset.
        """
        key = _ref_key(name)
        found = self.backend.read(key)
        if found is None:
            return None
        artifact = self.get(read_ref(found.data, f"{self.uri}/{key}").manifest_sha256)
        if artifact.asset != asset_of(name):
            raise ArtifactError(
                f"ref {self.uri}/{key} names an artifact of {artifact.asset} (manifest {artifact.sha256[:12]}), not of "
                f"{name}: materialize {name} again, or remove the object"
            )
        return artifact

    def assets(self) -> list[str]:
        """Names of all assets with a latest artifact; those of named experiments are `<experiment>/<asset>`."""
        return [name for key in self.backend.keys("refs/") if (name := name_of_ref(key))]

    def resolve(self, asset_or_manifest: str) -> Artifact:
        """The latest artifact of an asset, or the one with a name or a manifest hash (six digits if that is unique)."""
        artifact = self.find(asset_or_manifest)
        if artifact is None:
            raise ArtifactError(self.describe_unknown(asset_or_manifest))
        return artifact

    def find(self, asset_or_manifest: str) -> Artifact | None:
        """Like `resolve`, but returns None if the store has no such asset or manifest.

        Raises `ArtifactError` if several manifests start with these digits, or if the artifact is damaged.
        """
        wanted = asset_or_manifest.lower()
        if len(wanted) >= _MIN_HASH and set(wanted) <= set("0123456789abcdef"):
            found = [Path(key).stem for key in self.backend.keys(f"manifests/{wanted}")]
            if len(found) > 1:
                raise ArtifactError(f"{len(found)} manifests in {self.uri} start with {wanted}: give more digits")
            if found:
                return self.get(found[0])
        latest = self.latest(asset_or_manifest) if re.fullmatch(f"({NAME}/)?{NAME}", asset_or_manifest) else None
        return latest or named(self, asset_or_manifest)

    def describe_unknown(self, asset_or_manifest: str) -> str:
        """The error message for a name that `find` does not find."""
        from aquarat_core.config.validation import did_you_mean

        assets = self.assets()
        known = f"it has {', '.join(assets)}" if assets else "it is empty: materialize an asset first"
        near = did_you_mean(asset_or_manifest, assets).rstrip()
        return f"{self.uri} has no asset or manifest {asset_or_manifest!r}; {known}{near and f': {near}'}"

    def job(self, run_id: str, step_key: str, attempt: int) -> JobDir:
        """The folder of one attempt at one step."""
        return job_dir(self.backend, run_id, step_key, attempt)

    def _move_ref(self, name: str, manifest_sha256: str, data_version: str) -> None:
        replace_object(self.backend, _ref_key(name), ref_bytes(asset_of(name), manifest_sha256, data_version))

    def has_all(self, entries: Iterable[FileEntry]) -> bool:
        return all(parallel_map(lambda e: self.backend.size(blob_key(e.digest)) == e.size, entries))

    def local_copy(
        self, artifact: Artifact, name: str, what: Literal["files", "records"], advance: OnBytes = no_progress
    ) -> Path:
        entry = artifact.entry(name, what)
        return self._cache.file(
            f"{artifact.sha256}/{what}", entry, lambda path, have: self.fetch(artifact, entry, path, have, advance)
        )

    def release(self, entry: FileEntry) -> None:
        """Lets the cache remove one local copy, which this process has no more use for."""
        self._cache.release(entry)

    def fetch(
        self, artifact: Artifact, entry: FileEntry, target: Path, have: int = 0, advance: OnBytes = no_progress
    ) -> None:
        """Writes one file of an artifact to `target`, whose first `have` bytes are left over from an earlier attempt.

        Raises `ArtifactError` and removes `target` if the file is missing or damaged.
        """
        key = blob_key(entry.digest)
        got = self.backend.get_file(key, target, have, advance)
        if have and got is not None and got != entry.digest:
            got = self.backend.get_file(key, target, advance=advance)
        if got != entry.digest:
            target.unlink(missing_ok=True)
            raise ArtifactError(self.describe_damage(artifact, entry, got))

    def describe_damage(self, artifact: Artifact, entry: FileEntry, got: Digest | None) -> str:
        """The message about a file whose blob is missing (`got` is None) or has another digest."""
        wrong = "is missing" if got is None else "is damaged, its bytes are not those that were published"
        origin = f"{artifact.asset} (manifest {artifact.sha256[:12]}, run {artifact.manifest.run_id})"
        advice = rebuild_advice(self, artifact.manifest)
        return f"file {entry.path} of {origin} {wrong}: {self.uri}/{blob_key(entry.digest)}. {advice}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published artifact. `sha256` is that of its manifest; its files are verified, read-only local copies."""

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
        return self.store.manifest_uri(self.sha256)

    def as_parent(self) -> Parent:
        """This artifact as the manifest of an artifact made from it names it."""
        return Parent(
            asset=self.asset,
            manifest_sha256=self.sha256,
            data_version=self.data_version,
            run_id=self.manifest.run_id,
        )

    def entry(self, name: str, what: Literal["files", "records"] = "files") -> FileEntry:
        """The manifest's entry of a file. Raises `ArtifactError` if there is none."""
        entries: tuple[FileEntry, ...] = getattr(self.manifest, what)
        entry = next((e for e in entries if e.path == name), None)
        if entry is None:
            known = ", ".join(e.path for e in entries) or "none"
            raise ArtifactError(f"{self.asset} ({self.uri}) has no {name} among its {what}: {known}")
        return entry

    def path(self, name: str) -> Path:
        """Local path of a content file. Raises `ArtifactError` if there is none, or it is missing or damaged."""
        return self.store.local_copy(self, name, "files")

    def release(self, name: str) -> None:
        """Undoes one call of `path`: the cache may then remove the file, if nothing else in this process uses it."""
        self.store.release(self.entry(name))

    def record(self, name: str) -> Path:
        """Local path of a record, like `metrics.jsonl`. Raises as `path` does."""
        return self.store.local_copy(self, name, "records")

    def directory(self, advance: OnBytes = no_progress) -> Path:
        """Local directory with all content files under their paths. Raises as `path` does."""
        names = [entry.path for entry in self.manifest.files]
        paths = parallel_map(lambda name: self.store.local_copy(self, name, "files", advance), names)
        return paths[0].parents[len(Path(names[0]).parts) - 1]

    def is_complete(self) -> bool:
        """Whether the store has every file at its size; the bytes are not read."""
        return self.store.has_all((*self.manifest.files, *self.manifest.records))


def rebuild_advice(store: ArtifactStore, manifest: Manifest) -> str:
    """Says which ancestors can rebuild a damaged artifact, and with which command."""
    # The manifest comes from another machine, and the reader pastes this command into a shell.
    select = f"AQUARAT_PROFILE={shlex.quote(manifest.profile)} dagster asset materialize --select"
    asset = shlex.quote(manifest.asset)
    if source := manifest.adopted_from:
        again = f"aquarat adopt {shlex.quote(source.asset)} --as {asset}"
        return f"It was adopted from {source.asset}, manifest {source.manifest_sha256[:12]}: restore that, and {again}"
    if not manifest.parents:
        return f"It has no parents, so its source rebuilds it: {select} {asset}"
    names = ", ".join(f"{p.asset} (manifest {p.manifest_sha256[:12]})" for p in manifest.parents)
    incomplete = _incomplete(store, manifest, {})
    if not incomplete:
        return f"Its parents can rebuild it and are there: {names}. Run: {select} {asset}"
    first = ", ".join(incomplete)
    return (
        f"Its parents can rebuild it: {names}; but files of {first} are missing too. "
        f"Run: {select} {shlex.quote(','.join([*incomplete, manifest.asset]))}"
    )


def _incomplete(
    store: ArtifactStore, manifest: Manifest, checked: dict[str, bool], generations: int = MAX_GENERATIONS
) -> list[str]:
    """Names of the ancestors to rebuild before `manifest` can be rebuilt, parents before children."""
    found: list[str] = []
    for parent in manifest.parents:
        if parent.manifest_sha256 in checked:
            continue
        artifact = _readable(store, parent.manifest_sha256)
        checked[parent.manifest_sha256] = artifact is not None and artifact.is_complete()
        if not checked[parent.manifest_sha256]:
            if artifact is not None and generations:
                found += _incomplete(store, artifact.manifest, checked, generations - 1)
            found.append(parent.asset)
    return list(dict.fromkeys(found))


def _readable(store: ArtifactStore, sha256: str) -> Artifact | None:
    try:
        return store.get(sha256)
    except ArtifactError:
        return None


def blob_key(digest: Digest) -> str:
    """The key of the blob with that digest."""
    return f"blobs/sha256/{digest.sha256[:2]}/{digest.sha256}"


def _manifest_key(sha256: str) -> str:
    return f"manifests/{sha256}.json"


def asset_of(name: str) -> str:
    """The asset in a ref's name, `<asset>` or `<experiment>/<asset>`."""
    return name.rpartition("/")[2]


def name_of_ref(key: str) -> str | None:
    """The name of the ref stored as object `key`, or None if the object is not a ref."""
    match = re.fullmatch(r"refs/([^/]+(?:/[^/]+)?)/latest\.json", key)
    return match[1] if match else None


def _ref_key(name: str) -> str:
    return f"refs/{name}/latest.json"


def _files(directory: Path) -> dict[str, Path]:
    """Every file under `directory` by its path there, sorted."""
    found: dict[str, Path] = {}
    for path in directory.rglob("*"):
        if path.is_symlink():
            raise ArtifactError(f"cannot publish {path}: it is a symbolic link, whose target could change")
        if path.is_file():
            found[path.relative_to(directory).as_posix()] = path
    return dict(sorted(found.items()))


def _sorted(*entries: FileEntry) -> tuple[FileEntry, ...]:
    return tuple(sorted(entries, key=lambda e: e.path))


def _entries(files: Mapping[str, Path], digests: Mapping[Path, Digest]) -> tuple[FileEntry, ...]:
    found = {name: digests[path] for name, path in files.items()}
    return tuple(FileEntry.of(path, digest) for path, digest in found.items())


def _unhashed(files: Mapping[str, Path]) -> tuple[FileEntry, ...]:
    return _entries(files, dict.fromkeys(files.values(), Digest(0, "0" * 64, "")))
