"""Records of shards as garbage collection and `verify` see them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion, Digest
from aquarat_core.artifacts.backend import Stat
from aquarat_core.artifacts.store import blob_key
from aquarat_core.maintenance.collect import DAY, find_garbage, remove
from aquarat_core.maintenance.verify import verify
from aquarat_core.sharding.records import DisputedError, ShardRecord, ShardStore
from tests.patience import limit

KEYS = [digit * 64 for digit in "0123456789"]


@pytest.fixture
def place(store_uri: str) -> ShardStore:
    return ShardStore(ArtifactStore.open(store_uri), "tokens")


def add(place: ShardStore, number: int, folder: Path, content: str = "") -> ShardRecord:
    made = folder / f"{number}-{content}"
    made.mkdir()
    (made / "ids.bin").write_text(content or f"shard {number}")
    return place.add(KEYS[number], f"shard-{number}", made, {"n": number}, 0.5)


def publish(place: ShardStore, *records: ShardRecord) -> Artifact:
    stored = [r.file("ids.bin").model_copy(update={"path": f"{r.name}.bin"}) for r in records]
    return place.store.publish(
        asset="tokens", kind="dataset", directory=Path("/nonexistent"), config={}, profile="unit",
        code=CodeVersion(version="1" * 64), parents=(), metrics={}, seeds={}, run_id="run", stored=stored,
    )  # fmt: skip


def keys(place: ShardStore) -> set[str]:
    return {key.split("/")[2][:1] for key in place.store.backend.keys("shards/tokens/")}


def test_an_artifact_refers_to_the_files_of_shards(place: ShardStore, tmp_path: Path) -> None:
    records = [add(place, n, tmp_path) for n in (2, 1)]
    artifact = publish(place, *records)
    assert [f.path for f in artifact.manifest.files] == ["shard-1.bin", "shard-2.bin"]
    assert artifact.path("shard-2.bin").read_text() == "shard 2" and artifact.is_complete()
    assert len(list(place.store.backend.keys("blobs/"))) == 2 and verify(place.store).problems == ()
    folder = tmp_path / "folder"
    folder.mkdir()
    for n in (1, 2):
        (folder / f"shard-{n}.bin").write_text(f"shard {n}")
    whole = place.store.publish(
        asset="tokens", kind="dataset", directory=folder, config={}, profile="unit", code=artifact.manifest.code,
        parents=(), metrics={}, seeds={}, run_id="run",
    )  # fmt: skip
    assert whole.data_version == artifact.data_version


def test_records_are_kept_for_a_week_or_while_an_artifact_has_their_files(place: ShardStore, tmp_path: Path) -> None:
    records = [add(place, n, tmp_path) for n in range(4)]
    publish(place, *records[:2])
    store, now = place.store, time.time()
    assert find_garbage(store, now=now + 2 * DAY).objects == ()
    old = find_garbage(store, now=now + 8 * DAY)
    gone = {f"shards/tokens/{r.key}/{r.digest}.json" for r in records[2:]}
    gone |= {blob_key(r.file("ids.bin").digest) for r in records[2:]}
    assert {s.key for s in old.objects} == gone
    assert {s.key for s in remove(store, old)} == gone
    assert keys(place) == {"0", "1"} and set(place.find(KEYS)) == set(KEYS[:2]) and verify(store).problems == ()


def test_a_record_that_is_used_while_garbage_is_collected_keeps_its_files(place: ShardStore, tmp_path: Path) -> None:
    used, unused = add(place, 1, tmp_path), add(place, 2, tmp_path)
    garbage = find_garbage(place.store, now=time.time() + 8 * DAY)
    key = f"shards/tokens/{used.key}/{used.digest}.json"
    found = place.store.backend.read(key)
    assert place.store.backend.swap(key, found.data, found.version)
    remove(place.store, garbage)
    assert keys(place) == {"1"} and place.find(KEYS) == {used.key: used}
    assert place.store.backend.size(blob_key(unused.file("ids.bin").digest)) is None


def test_an_old_record_is_dated_anew_when_it_is_used(
    place: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, now = add(place, 1, tmp_path), time.time()
    (before,) = place.store.backend.stats("shards/")
    place.find(KEYS)
    assert list(place.store.backend.stats("shards/")) == [before], "a young one is left alone"
    monkeypatch.setattr("aquarat_core.sharding.records.time.time", lambda: now + 2 * DAY)
    assert place.find(KEYS) == {record.key: record}
    (after,) = place.store.backend.stats("shards/")
    assert after.version != before.version


def test_two_results_of_a_shard_stay_until_someone_decides(place: ShardStore, tmp_path: Path) -> None:
    add(place, 1, tmp_path)
    with pytest.raises(DisputedError, match="tokens, shard shard-1: it was made twice with different results"):
        add(place, 1, tmp_path, "another result")
    (problem,) = verify(place.store).problems
    assert f"shards/tokens/{KEYS[1]}/ has two different results" in problem
    remove(place.store, find_garbage(place.store, now=time.time() + 100 * DAY))
    with pytest.raises(DisputedError):
        place.find([KEYS[1]])


@pytest.mark.parametrize("read", [True, False])
def test_verify_names_what_is_wrong_with_a_shard(place: ShardStore, tmp_path: Path, read: bool) -> None:
    flipped, missing, unreadable = (add(place, n, tmp_path) for n in (1, 2, 3))
    backend = place.store.backend
    backend.write(blob_key(flipped.file("ids.bin").digest), b"SHARD 1")
    backend.delete(blob_key(missing.file("ids.bin").digest))
    backend.write(f"shards/tokens/{unreadable.key}/{unreadable.digest}.json", b"{")
    problems = verify(place.store, read=read).problems
    assert any("shard-2 of tokens" in p and "missing or damaged" in p for p in problems)
    assert any("shard record" in p and "not valid JSON" in p for p in problems)
    assert any("shard-1 of tokens" in p for p in problems) == read
    garbage = find_garbage(place.store, now=time.time() + 8 * DAY)
    assert len(garbage.problems) == 1 and len([s for s in garbage.objects if s.key.startswith("shards/")]) == 3


def test_verify_reads_each_file_of_the_shards_once_and_several_at_a_time(
    place: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = place.store.backend
    shared = [add(place, n, tmp_path, "the same") for n in (1, 2, 3)]
    other = add(place, 4, tmp_path)
    together, digest = threading.Barrier(2), backend.digest
    read = Counter[str]()

    def noted(key: str, *rest: object) -> Digest | None:
        together.wait(limit(30))
        read[key] += 1
        return digest(key, *rest)

    monkeypatch.setattr(backend, "digest", noted)
    assert verify(place.store).problems == ()
    blobs = [blob_key(record.file("ids.bin").digest) for record in (shared[0], other)]
    assert read == dict.fromkeys(blobs, 1)
    backend.write(blobs[0], b"the sane")
    problems = verify(place.store).problems
    assert [sum(f"shard-{n} of tokens" in p for p in problems) for n in range(5)] == [0, 1, 1, 1, 0]


def test_files_are_read_only_where_the_storage_keeps_no_checksums(
    shared_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ShardStore(ArtifactStore.open(shared_uri), "tokens")
    record = add(place, 1, tmp_path)
    backend, blob = place.store.backend, blob_key(record.file("ids.bin").digest)
    read, digest = list[str](), backend.digest
    monkeypatch.setattr(backend, "digest", lambda key, *rest: (read.append(key), digest(key, *rest))[1])
    assert place.find(KEYS) == {record.key: record}
    keeps_checksums = shared_uri.startswith("gs://")
    assert read == ([] if keeps_checksums else [blob])
    backend.write(blob, b"SHARD 1")
    assert bool(verify(place.store, read=False).problems) == keeps_checksums, "the listing has them"
    backend.delete(blob)
    assert place.find(KEYS) == {}


def test_the_records_are_listed_once(place: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(place, 1, tmp_path)
    backend = place.store.backend
    stats, listed = backend.stats, Counter[str]()

    def noted(prefix: str) -> Iterator[Stat]:
        listed[prefix] += 1
        return stats(prefix)

    monkeypatch.setattr(backend, "stats", noted)
    find_garbage(place.store)
    verify(place.store)
    assert listed["shards/"] == 2, "once for each"
