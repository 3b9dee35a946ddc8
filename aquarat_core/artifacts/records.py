"""The small objects in a store other than manifests: refs, pins, names, job records, checkpoint records.

Anyone with write access to a store can write any bytes there, so nothing is read without `read_ref`, `read_pin`,
`read_job_record` or one of the models. Their errors name the object, what is wrong with it and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from aquarat_core.artifacts.backend import Backend
from aquarat_core.artifacts.bounded import Model, parse, parse_as, validated
from aquarat_core.artifacts.errors import ArtifactError, StoreError
from aquarat_core.artifacts.manifest import Name, Parent, Sha256, canonical
from aquarat_core.artifacts.transfer import parallel_map

MAX_SMALL = 64 << 10
"""Size limit of a ref or a pin in bytes, far above what any of them needs."""
MAX_COUNT = 10_000
READERS = 32
"""Small objects that are read in parallel: on a bucket, each costs a round trip but hardly any bytes."""
_AT_ONCE = 1_000
"""Small objects of which the bytes are in memory at a time."""
_SWAP_TRIES = 100

Read = TypeVar("Read")

Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Text = Annotated[str, Field(max_length=4096)]
Line = Annotated[str, Field(max_length=1 << 20)]


def _hash(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(f"{text[:80]!r} is not a SHA-256: a name that leads outside the store is not followed")
    return text


class _Record(BaseModel):
    """Fields that are not declared here may hold anything; declared fields are validated."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Ref(_Record):
    """`refs/[<experiment>/]<asset>/latest.json`: the latest published artifact of the asset."""

    manifest_sha256: Annotated[str, AfterValidator(_hash)]
    asset: Name
    data_version: Sha256


class Pin(_Record):
    """`pins/<manifest_sha256>.json`: an artifact that garbage collection keeps permanently."""

    asset: Name
    manifest_sha256: Sha256


class SpecRecord(_Record):
    """`spec.json`, as far as garbage collection needs it; the host that runs the job validates all of it."""

    inputs: Annotated[dict[str, Parent], Field(max_length=1000)] = {}


class LaunchRecord(_Record):
    spec: SpecRecord
    retry: Count
    events: Annotated[dict[str, Count], Field(max_length=1000)]


class HostsRecord(_Record):
    hosts: Annotated[list[Text], Field(max_length=MAX_COUNT)]


class ClaimRecord(_Record):
    host: Text
    boot: Text


class StatusRecord(_Record):
    state: Text
    sequence: Annotated[int, Field(ge=-1, le=2**53, strict=True)]
    chunks: Count
    code: Annotated[int, Field(strict=True)] | None = None
    signal: Annotated[int, Field(strict=True)] | Text | None = None
    reason: Line | None = None
    tail: Annotated[list[Line], Field(max_length=MAX_COUNT)] | None = None


class CancelRecord(_Record):
    reason: Line


class ErrorRecord(_Record):
    type: Text
    message: Line
    user: bool


class ResultRecord(_Record):
    ok: Annotated[bool, Field(strict=True)]
    error: ErrorRecord | None = None
    manifest_sha256: Sha256 | None = None


class ChunkRecord(_Record):
    lines: Annotated[list[Line], Field(max_length=1_000_000)]
    messages: Annotated[list[dict[str, Any]], Field(max_length=1_000_000)]


class CursorRecord(BaseModel):
    """`cursor.json`: how many chunks of each node's output have been shown."""

    model_config = ConfigDict(extra="allow", frozen=True)
    # This is how pydantic expects the type of extra fields to be declared.
    __pydantic_extra__: dict[str, Count] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]


class CommitRecord(_Record):
    """`work/.../commit.json`: a complete checkpoint, with size, SHA-256 and CRC-32C of its files."""

    step: Count
    identity: dict[str, Any]
    wandb_id: Text | None
    files: Annotated[dict[Name, tuple[Count, Sha256, Text]], Field(max_length=1_000_000)]
    code_version: Text | None = None


_JOB_RECORDS: tuple[tuple[str, type[BaseModel]], ...] = (
    (r"launch\.json", LaunchRecord),
    (r"spec\.json", SpecRecord),
    (r"hosts\.json", HostsRecord),
    (r"claim/node\d+\.json", ClaimRecord),
    (r"status/node\d+\.json", StatusRecord),
    (r"output/node\d+/\d+\.json", ChunkRecord),
    (r"cursor\.json", CursorRecord),
    (r"cancel\.json", CancelRecord),
    (r"result\.json", ResultRecord),
)


def read_ref(data: bytes, uri: str) -> Ref:
    """Parses the ref at `uri`. Raises `RecordError`."""
    remedy = "Publish its asset again, or remove the object; what `aquarat store ls --all` lists stays."
    return parse_as(Ref, data, f"ref {uri}", remedy, MAX_SMALL)


def ref_bytes(asset: str, manifest_sha256: str, data_version: str) -> bytes:
    """The content of a ref or of a name, as `read_ref` and `read_name` read it."""
    return canonical({"asset": asset, "manifest_sha256": manifest_sha256, "data_version": data_version})


def read_name(data: bytes, uri: str) -> Ref:
    """Parses the name at `uri`, which has the fields of a ref. Raises `RecordError`."""
    return parse_as(Ref, data, f"name {uri}", "Give the name again with `aquarat name --move`.", MAX_SMALL)


def read_pin(data: bytes, uri: str) -> Pin:
    """Parses the pin at `uri`. Raises `RecordError`."""
    remedy = "Remove the object and pin the artifact again with `aquarat store pin`."
    return parse_as(Pin, data, f"pin {uri}", remedy, MAX_SMALL)


def read_job_record(data: bytes, uri: str, name: str) -> Any:
    """Parses the object `name` in a job's folder. Objects that are part of the protocol must have its fields.

    Raises `RecordError`.
    """
    model = next((model for pattern, model in _JOB_RECORDS if re.fullmatch(pattern, name)), None)
    if model is None:
        return parse(data, f"job record {uri}", _JOB)
    value = parse(data, f"job record {uri}", _JOB, "object")
    validated(model, value, f"job record {uri}", _JOB)
    return value


def parse_job_record(model: type[Model], data: bytes, uri: str) -> Model:
    """Parses the job record at `uri` as `model`. Raises `RecordError`."""
    return parse_as(model, data, f"job record {uri}", _JOB)


def read_commit(data: bytes, uri: str) -> CommitRecord:
    """Parses a checkpoint's commit at `uri`. Raises `RecordError`."""
    return parse_as(CommitRecord, data, f"checkpoint record {uri}", _CHECKPOINT)


def read_checkpoint_json(data: bytes, uri: str) -> Any:
    """Parses another record of a checkpoint. Raises `RecordError`."""
    return parse(data, f"checkpoint record {uri}", _CHECKPOINT)


def read_each(
    backend: Backend, keys: Iterable[str], parsed: Callable[[bytes, str], Read]
) -> Iterator[tuple[str, Read | ArtifactError]]:
    """The objects at these keys that are there, in order, as `parsed(data, uri)` returns them, or the error that it
    raises. Many are read in parallel."""

    def read(key: str) -> Read | ArtifactError | None:
        found = backend.read(key)
        try:
            return None if found is None else parsed(found.data, f"{backend.uri}/{key}")
        except ArtifactError as e:
            return e

    keys = list(keys)
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        for key, found in zip(part, parallel_map(read, part, READERS), strict=True):
            if found is not None:
                yield key, found


def replace_object(
    backend: Backend, key: str, data: bytes, allow: Callable[[bytes], object] = lambda held: None
) -> bytes | None:
    """Writes an object that other writers may be writing too, and returns the other content that it had before.

    `allow` is called with such content, and raises to keep it. Raises `StoreError` if the object never stays as it is
    for long enough.
    """
    for _ in range(_SWAP_TRIES):
        current = backend.read(key)
        if current is None:
            if backend.create(key, data):
                return None
            continue
        if current.data == data:
            return None
        allow(current.data)
        if backend.swap(key, data, current.version):
            return current.data
    raise StoreError(f"{backend.uri}/{key} keeps being moved by other writers: is a loop publishing or naming?")


_JOB = "Cancel the run, or remove the object, and start the step again."
_CHECKPOINT = "Remove its folder; training then continues from the checkpoint before it."
