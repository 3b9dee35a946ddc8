"""Whatever lies where a record should: each reader gives one error that names the object, and `gc` stays safe."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, RecordError
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.bounded import MAX_DEPTH, parse
from aquarat_core.artifacts.manifest import Manifest, canonical
from aquarat_core.artifacts.records import read_commit, read_job_record, read_pin, read_ref
from aquarat_core.checkpointing.store import CheckpointStore
from aquarat_core.maintenance.collect import DAY, find_garbage
from aquarat_core.maintenance.verify import verify

from .conftest import Publish

BROKEN = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"5",
    b'"text"',
    b"\xff",
    b"{",
    b"[" * 1000 + b"]" * 1000,
    b"[" * 100_000,
    b'{"manifest_sha256": 5}',
    b'{"manifest_sha256": [1]}',
    b'{"manifest_sha256": null, "asset": {}, "data_version": 1e400}',
    b'{"asset":"a","data_version":"' + b"0" * 64 + b'","manifest_sha256":"' + b"0" * 63 + b'"}',
    b'{"x": ' + b"9" * 5000 + b"}",
    b" " * (17 << 20),
]
names = [f"{data[:24]!r}" for data in BROKEN]


@pytest.mark.parametrize("data", BROKEN, ids=names)
def test_a_broken_ref_is_named_and_costs_nothing_that_it_may_name(
    data: bytes, tmp_path: Path, publish: Publish
) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    old, replaced, _ = (publish(store, asset, {"f": asset.encode() * n}) for asset, n in (("a", 1), ("b", 1), ("b", 2)))
    store.backend.write("refs/a/latest.json", data)
    uri = f"{store.uri}/refs/a/latest.json"
    with pytest.raises(RecordError, match=uri):
        store.latest("a")
    assert [uri in p for p in verify(store).problems] == [True]
    garbage = find_garbage(store, now=time.time() + 2 * DAY)
    assert {s.key for s in garbage.objects if "manifests" in s.key} == {f"manifests/{replaced.sha256}.json"}
    assert len(garbage.problems) == 1 and uri in garbage.problems[0]
    assert old.is_complete()
    again = publish(store, "a", {"f": b"new"})
    assert store.latest("a") == again and verify(store).problems == ()


@pytest.mark.parametrize("data", BROKEN, ids=names)
def test_a_broken_pin_is_named_and_still_pins(data: bytes, tmp_path: Path, publish: Publish) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    pinned, gone, _ = (publish(store, "a", {"f": text}) for text in (b"1", b"2", b"3"))
    store.backend.write(f"pins/{pinned.sha256}.json", data)
    garbage = find_garbage(store, now=time.time() + 2 * DAY)
    assert {s.key for s in garbage.objects if "manifests" in s.key} == {f"manifests/{gone.sha256}.json"}
    assert f"pins/{pinned.sha256}.json" in garbage.problems[0] and verify(store).problems == garbage.problems
    store.backend.delete(f"pins/{pinned.sha256}.json")
    store.backend.write("pins/x.json", data)
    assert not any("manifests" in s.key for s in find_garbage(store, now=time.time() + 2 * DAY).objects)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"inputs": null}', b'{"inputs": {"a": {}}}', b'{"inputs": []}', b"[" * 1000 + b"]" * 1000],
)
def test_a_broken_spec_of_a_living_job_keeps_every_artifact(data: bytes, tmp_path: Path, publish: Publish) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    publish(store, "a", {"f": b"1"}), publish(store, "a", {"f": b"2"})
    later = time.time() + 2 * DAY
    assert any("manifests" in s.key for s in find_garbage(store, now=later).objects)
    store.backend.write("jobs/r/s/1/spec.json", data)
    store.backend.write("tmp/left", b"over")
    path = tmp_path / "store" / "jobs/r/s/1/spec.json"
    os.utime(path, (later, later))
    garbage = find_garbage(store, now=later)
    assert {s.key for s in garbage.objects} == {"tmp/left"}
    assert "jobs/r/s/1/spec.json" in garbage.problems[0]


RECORDS: list[tuple[str, Any]] = [
    ("launch.json", {"spec": {}, "retry": "0", "events": {}}),
    ("launch.json", []),
    ("spec.json", {"inputs": 5}),
    ("hosts.json", {"hosts": {"a": 1}}),
    ("claim/node0.json", {"host": 1, "boot": "x"}),
    ("status/node0.json", {"state": "running", "sequence": "1", "chunks": 0}),
    ("status/node0.json", None),
    ("output/node0/000001.json", {"lines": [1], "messages": []}),
    ("output/node0/000001.json", {"lines": [], "messages": ["x"]}),
    ("cursor.json", {"node0": "many"}),
    ("cancel.json", 5),
    ("result.json", {"ok": "yes"}),
    ("result.json", {"ok": True, "manifest_sha256": "../x"}),
    ("result.json", {"ok": False, "error": "text"}),
]


@pytest.mark.parametrize(("name", "value"), RECORDS)
def test_a_job_record_of_another_shape_is_named(name: str, value: Any, uri: str) -> None:
    job = ArtifactStore.open(uri).job("r", "s", 1)
    for data in (json.dumps(value).encode(), b"", b"[" * 1000, b"\xff"):
        job.backend.write(f"{job.prefix}/{name}", data)
        with pytest.raises(RecordError, match=rf"{job.prefix}/{name} cannot be used: .+ start the step again"):
            job.read_json(name)


@pytest.mark.parametrize("data", [*BROKEN[:9], b'{"step":"1","identity":{},"wandb_id":null,"files":{"a":[1,2]}}'])
def test_a_broken_checkpoint_record_is_named(data: bytes, uri: str) -> None:
    area = CheckpointStore(open_backend(uri), "work/base/key", {})
    area.backend.write("work/base/key/00000001-1/commit.json", data)
    with pytest.raises(RecordError, match=r"00000001-1/commit.json cannot be used: .+ Remove its folder"):
        area.checkpoints()


def put(store: ArtifactStore, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    store.backend.create(f"manifests/{sha256}.json", data)
    return sha256


def changed(artifact: Artifact, **fields: Any) -> bytes:
    raw = artifact.manifest.model_dump(mode="json") | fields
    return json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_a_manifest_that_cannot_be_read_is_named_by_every_tool(uri: str, publish: Publish) -> None:
    store = ArtifactStore.open(uri)
    good = publish(store, "a", {"f": b"1"})
    deep: Any = 0
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    text = good.manifest.to_bytes().decode()
    entry = good.manifest.files[0].model_dump()
    broken = [
        b"",
        b"[]",
        b'{"format":2}',
        changed(good, config={"x": 0}).replace(b'"x":0', b'"x":' + b"[" * 1000 + b"]" * 1000),
        changed(good, config=deep),
        json.dumps(json.loads(text), indent=1).encode(),
        text.encode("utf-16"),
        text.replace('"asset":"a"', '"asset":"b","asset":"a"').encode(),
        changed(good, files=[entry | {"size": "1"}]),
        changed(good, files=[entry | {"path": "a\x00b"}]),
        changed(good, files=[entry | {"path": "a\nb"}]),
        changed(good, run_id="r" * 5000),
        changed(good, format=True),
    ]
    hashes = [put(store, data) for data in broken]
    assert len(set(hashes)) == len(broken)
    for sha256 in hashes:
        with pytest.raises(RecordError, match=sha256):
            store.get(sha256)
    problems = verify(store).problems
    assert all(any(sha256 in p for p in problems) for sha256 in hashes) and len(problems) == len(hashes)
    with pytest.raises(ArtifactError, match="nothing is removed while manifests are damaged") as raised:
        find_garbage(store)
    assert all(sha256 in str(raised.value) for sha256 in hashes) and "remove the objects" in str(raised.value)
    for sha256 in hashes:
        store.backend.delete(f"manifests/{sha256}.json")
    assert find_garbage(store).kept == 1


def test_depth_is_counted_outside_texts() -> None:
    brackets = {"x": "[" * 500 + '\\"{' * 50, "y": [[1]]}
    assert parse(json.dumps(brackets).encode(), "it", "") == brackets
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert parse(b"[" + b",".join([deep[1:-1]] * 9) + b"]", "it", "")
    with pytest.raises(RecordError, match="nested more than"):
        parse(b"[" + deep + b"]", "it", "")


def _samples() -> list[tuple[bytes, Callable[[bytes], object]]]:
    """A right object of each kind, and its reader."""
    zero, parent = "0" * 64, {"asset": "b", "manifest_sha256": "1" * 64, "data_version": "2" * 64, "run_id": "r"}
    entry = {"path": "f", "size": 5, "sha256": zero, "crc32c": "AAAAAA=="}
    manifest = Manifest.create(
        asset="a", kind="k", files=[entry], records=[entry], config={"x": {"y": [1, 2.5, None, "z"]}}, profile="p",
        code={"version": "v"}, parents=[parent], metrics={"l": 1.5}, seeds={"s": 1}, libraries={"torch": "2"},
        hardware={"gpus": ["x"]}, run_id="r")  # fmt: skip
    ref = canonical({"asset": "a", "manifest_sha256": zero, "data_version": zero})
    commit = canonical({"step": 1, "identity": {"a": 1}, "wandb_id": None, "files": {"a": [1, zero, "x"]}})
    jobs = {
        "launch.json": {"spec": {"inputs": {"b": parent}}, "retry": 0, "events": {"a": 1}},
        "status/node0.json": {"state": "running", "sequence": 1, "chunks": 0, "code": None, "tail": ["x"]},
        "output/node0/000001.json": {"lines": ["x"], "messages": [{"a": 1}]},
        "cursor.json": {"node0": 3},
        "result.json": {"ok": False, "error": {"type": "T", "message": "m", "user": True}},
    }
    return [
        (manifest.to_bytes(), Manifest.from_bytes),
        (ref, lambda data: read_ref(data, "uri")),
        (ref, lambda data: read_pin(data, "uri")),
        (commit, lambda data: read_commit(data, "uri")),
        *((canonical(v), lambda data, name=name: read_job_record(data, "uri", name)) for name, v in jobs.items()),
    ]


def test_mutated_objects_are_read_or_refused_with_their_name() -> None:
    random = Random(7)
    pieces = [b"[", b"{", b'"', b"null", b"[]", b"{}", b"-1", b"1e999", b"NaN", b"9" * 5000, b"\\u0000", b"\xff"]
    pieces += [b"true", b"[" * 2000, b'""', b":", b","]
    samples, refused = _samples(), 0
    for data, read in samples:
        read(data)
    for number in range(3000):
        right, read = samples[number % len(samples)]
        data = bytearray(right)
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(data) + 1)
            data[at : at + random.choice((0, 0, 1, 10, 40))] = random.choice((*pieces, b""))
        try:
            read(bytes(data))
        except RecordError:
            refused += 1
    assert 2000 < refused < 3000
