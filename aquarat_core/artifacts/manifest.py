"""The manifest: everything there is to know about one artifact, as canonical JSON named by its own SHA-256.

Two hashes with two meanings. `Manifest.sha256` names this publication: it covers run id, time, metrics and hardware, so
it is unique to the run. `Manifest.data_version` names the content alone (kind and files), so a bit-identical re-run has
the data version of the first run and nothing downstream of it goes stale.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from aquarat_core.artifacts.errors import ArtifactError
from aquarat_core.artifacts.hashing import Digest

FORMAT = 1
Scalar = float | int | str | bool | None


def _relative(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or str(PurePosixPath(path)) != path or ".." in parts:
        raise ValueError(f"{path!r} is not a plain relative path: it could lead outside the artifact")
    return path


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"{name!r} is not a name: letters, digits, '_', '.' and '-' only")
    return name


def _distinct(entries: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
    paths = [e.path for e in entries]
    if paths != sorted(set(paths)):
        raise ValueError("files must be sorted by path, each path once")
    return entries


def _finite(metrics: dict[str, Scalar]) -> dict[str, Scalar]:
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}: JSON has no such number; report None where a metric has no value")
    return metrics


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, AfterValidator(_name)]


class _Frozen(BaseModel):
    # Without "constants" pydantic would quietly write NaN and infinities as null.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class FileEntry(_Frozen):
    """One file of an artifact: its path in it (posix, relative) and the digests of its bytes."""

    path: Annotated[str, AfterValidator(_relative)]
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256
    crc32c: str

    @property
    def digest(self) -> Digest:
        return Digest(self.size, self.sha256, self.crc32c)


class Parent(_Frozen):
    """An input artifact: which publication it was, what it held, and the run that made it."""

    asset: Name
    manifest_sha256: Sha256
    data_version: Sha256
    run_id: str


class CodeVersion(_Frozen):
    """`version` hashes the stage's sources and config; `commit` and `dirty` are None outside a git checkout."""

    version: str
    commit: str | None = None
    dirty: bool | None = None


class Manifest(_Frozen):
    """One artifact. `files` are its content; `records` (logs, metrics) go with it, outside its data version."""

    format: int = FORMAT
    asset: Name
    kind: Name
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1), AfterValidator(_distinct)]
    records: Annotated[tuple[FileEntry, ...], AfterValidator(_distinct)] = ()
    config: dict[str, Any]
    profile: str
    code: CodeVersion
    parents: tuple[Parent, ...]
    metrics: Annotated[dict[str, Scalar], AfterValidator(_finite)]
    seeds: dict[str, int]
    libraries: dict[str, str]
    hardware: dict[str, Any]
    run_id: str
    wandb: dict[str, Any] | None = None
    created: str

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8. Equal manifests give equal bytes."""
        return canonical(self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def data_version(self) -> str:
        """SHA-256 over format, kind and (path, size, sha256) of the content files."""
        files = [[f.path, f.size, f.sha256] for f in self.files]
        return hashlib.sha256(canonical({"format": self.format, "kind": self.kind, "files": files})).hexdigest()

    @classmethod
    def create(cls, **fields: Any) -> Manifest:
        """A new manifest exactly as a later reader will see it. Raises `ArtifactError` for fields it cannot hold."""
        try:
            draft = cls(created=datetime.now(UTC).isoformat(timespec="microseconds"), **fields)
            return cls.from_bytes(draft.to_bytes())
        except ValueError as e:
            raise ArtifactError(f"cannot publish {fields.get('asset')}: {_first_error(e)}") from e

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parses a manifest. Raises `ArtifactError` for one that is damaged or of a newer format."""
        try:
            raw = json.loads(data)
        except ValueError:
            raise ArtifactError("the manifest is not valid JSON: the store is damaged") from None
        version = raw.get("format") if isinstance(raw, dict) else None
        if version != FORMAT:
            raise ArtifactError(f"the manifest has format {version}, but {FORMAT} is what can be read: update aquarat")
        try:
            return cls.model_validate(raw)
        except ValidationError as e:
            raise ArtifactError(f"the manifest cannot be used: {_first_error(e)}") from None


def canonical(value: Any) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8. Raises `ValueError` for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _first_error(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
