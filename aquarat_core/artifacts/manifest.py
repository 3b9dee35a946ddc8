"""The manifest: a complete description of one artifact, as canonical JSON named by its own SHA-256.

Two hashes with two meanings. `Manifest.sha256` names this publication: it covers run id, time, metrics and hardware, so
it is unique to the run. `Manifest.data_version` names the content alone (kind and files), so a bit-identical re-run has
the data version of the first run and nothing downstream of it goes stale.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from aquarat_core.artifacts.bounded import first_error, parse, printable, validated
from aquarat_core.artifacts.errors import ArtifactError, RecordError
from aquarat_core.artifacts.hashing import Digest

FORMAT = 1
Scalar = float | int | str | bool | None
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
"""The pattern of valid names of assets and kinds."""
ADOPTED_FROM = "adopted_from"
"""The key in the config of an adopted artifact (`adoption.py`)."""
MAX_PATH = 1024
MAX_FILES = 100_000
MAX_ENTRIES = 10_000
MAX_GENERATIONS = 100
"""Limit on the depth of an ancestry; an artifact of a pipeline has about five generations before it."""


def _relative(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or str(PurePosixPath(path)) != path or ".." in parts:
        raise ValueError(f"{path!r} is not a plain relative path: it could lead outside the artifact")
    if not path.isprintable() or len(path) > MAX_PATH:
        raise ValueError(f"{path[:100]!r} is not a path: printable characters only, and {MAX_PATH} at most")
    return path


def _name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} is not a name: letters, digits, '_', '.' and '-' only, 200 at most")
    return name


def _distinct(entries: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
    paths = [e.path for e in entries]
    if paths != sorted(set(paths)):
        raise ValueError("files must be sorted by path, each path once")
    return entries


def _finite(metrics: dict[str, Scalar]) -> dict[str, Scalar]:
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"the metric {name} is {value}, so its computation went wrong: look in metrics.jsonl for where it "
                "stopped being finite (a stage that has nothing to measure reports None)"
            )
    return metrics


def _finite_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Raises an error that names the fact with a number that JSON cannot represent, at any depth."""
    left: list[tuple[str, Any]] = list(facts.items())
    while left:
        where, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{where}.{key}", inner) for key, inner in cast("dict[str, Any]", value).items()]
        elif isinstance(value, (list, tuple)):
            left += [(f"{where}.{i}", inner) for i, inner in enumerate(cast("Sequence[Any]", value))]
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which no manifest can hold: give it a finite number, or None")
    return facts


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, Field(max_length=4096)]
Facts = Annotated[dict[str, Any], AfterValidator(_finite_facts)]


class _Frozen(BaseModel):
    # Without "constants", pydantic would silently write NaN and infinities as null.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class FileEntry(_Frozen):
    """One file of an artifact: its path (POSIX, relative to the artifact) and the digests of its bytes."""

    path: Annotated[str, AfterValidator(_relative)]
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256
    crc32c: Annotated[str, Field(max_length=8)]

    @classmethod
    def of(cls, path: str, digest: Digest) -> FileEntry:
        """The entry of a file with that digest."""
        return cls(path=path, size=digest.size, sha256=digest.sha256, crc32c=digest.crc32c)

    @property
    def digest(self) -> Digest:
        return Digest(self.size, self.sha256, self.crc32c)


class Parent(_Frozen):
    """An input artifact: its publication, its content, and the run that made it."""

    asset: Name
    manifest_sha256: Sha256
    data_version: Sha256
    run_id: Text


class CodeVersion(_Frozen):
    """`version` hashes the stage's sources and config; `commit` and `dirty` are None outside a git checkout."""

    version: Text
    commit: Text | None = None
    dirty: bool | None = None


class Manifest(_Frozen):
    """One artifact. `files` are its content; `records` (logs, metrics) belong to it but not to its data version."""

    format: int = FORMAT
    asset: Name
    kind: Name
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=MAX_FILES), AfterValidator(_distinct)]
    records: Annotated[tuple[FileEntry, ...], Field(max_length=MAX_FILES), AfterValidator(_distinct)] = ()
    config: Facts
    profile: Text
    profile_sha256: Sha256 | None = None
    """Hash of the whole profile; None in manifests older than this field, whose JSON leaves it out."""
    code: CodeVersion
    parents: Annotated[tuple[Parent, ...], Field(max_length=1000)]
    metrics: Annotated[dict[str, Scalar], Field(max_length=MAX_ENTRIES), AfterValidator(_finite)]
    seeds: Annotated[dict[str, int], Field(max_length=MAX_ENTRIES)]
    libraries: Annotated[dict[str, Text], Field(max_length=MAX_ENTRIES)]
    hardware: Facts
    run_id: Text
    wandb: Facts | None = None
    created: Text

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8. Equal manifests give equal bytes."""
        unrecorded = {"profile_sha256"} if self.profile_sha256 is None else None
        return canonical(self.model_dump(mode="json", exclude=unrecorded))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def data_version(self) -> str:
        """SHA-256 over format, kind and (path, size, sha256) of the content files."""
        files = [[f.path, f.size, f.sha256] for f in self.files]
        return hashlib.sha256(canonical({"format": self.format, "kind": self.kind, "files": files})).hexdigest()

    @property
    def adopted_from(self) -> Parent | None:
        """The artifact that this one was adopted from, with the same files; None if a stage or an import made it."""
        return self.parents[0] if ADOPTED_FROM in self.config and len(self.parents) == 1 else None

    @classmethod
    def create(cls, **fields: Any) -> Manifest:
        """A new manifest exactly as later readers will see it. Raises `ArtifactError` for fields that it cannot
        hold."""
        try:
            draft = cls(created=datetime.now(UTC).isoformat(timespec="microseconds"), **fields)
            return cls.from_bytes(draft.to_bytes())
        except ValueError as e:
            raise ArtifactError(f"cannot publish {fields.get('asset')}: {first_error(e)}") from e

    @classmethod
    def from_bytes(cls, data: bytes, what: str = "the manifest") -> Manifest:
        """Parses a manifest; `what` names it in errors.

        Raises `RecordError` if it is damaged, has a newer format, or is not written as `to_bytes` writes it: a copy
        of that one would get another hash, and so another name.
        """
        raw = parse(data, what, _REMEDY)
        facts = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
        version = facts.get("format")
        if type(version) is not int or version != FORMAT:
            shown = printable(repr(version)[:20])
            newer = "" if type(version) is int and version > FORMAT else _REMEDY
            wrong = f"it has format {shown}, but this version reads format {FORMAT}: update aquarat"
            raise RecordError(what, wrong, newer)
        manifest = validated(cls, facts, what, _REMEDY)
        try:
            same = manifest.to_bytes() == data
        except ValueError as e:
            raise RecordError(what, first_error(e), _REMEDY) from None
        if not same:
            raise RecordError(what, "it is not in canonical form (sorted keys, no spaces, each key once)", _REMEDY)
        return manifest


_REMEDY = "Materialize its asset again; this object cannot be repaired."


def canonical(value: Any) -> bytes:
    """JSON in one form: sorted keys, no spaces, UTF-8. Raises `ValueError` for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
