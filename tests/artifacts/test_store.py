"""One suite for every kind of store: publish, read back, refs, jobs, damage."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactError, ArtifactStore, CodeVersion, JobDir, StoreError, digest_file
from aquarat_core.artifacts.backend import Backend
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.hashing import digest_bytes
from aquarat_core.artifacts.records import replace_object

from .conftest import Publish

FILES = {"train.parquet": b"rows" * 1000, "sub/empty.json": b"", "Ünicode name.txt": b"\x00\xff"}


@pytest.fixture
def store(uri: str) -> ArtifactStore:
    return ArtifactStore.open(uri)


@pytest.fixture
def backend(uri: str) -> Backend:
    return open_backend(uri)


def blob_key(data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def remove(uri: str, key: str) -> None:
    """Deletes an object behind the store's back."""
    assert open_backend(uri).delete(key)


def test_what_is_published_is_read_back(store: ArtifactStore, uri: str, publish: Publish) -> None:
    made = publish(store, "aqua_dataset", FILES, records={"metrics.jsonl": b"{}\n"})
    art = ArtifactStore.open(uri).latest("aqua_dataset")
    assert art is not None
    assert art.manifest == made.manifest
    assert (art.sha256, art.data_version) == (made.sha256, made.data_version)
    assert art.uri == f"{uri}/manifests/{art.sha256}.json"
    assert {name: art.path(name).read_bytes() for name in FILES} == FILES
    assert art.path("train.parquet").name == "train.parquet"
    folder = art.directory()
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    assert art.record("metrics.jsonl").read_bytes() == b"{}\n"
    assert store.get(art.sha256).manifest == art.manifest
    assert art.is_complete()
    assert [f.size for f in art.manifest.files] == [0, 4000, 2]
    assert art.manifest.libraries["python"].startswith("3.")


def test_the_bytes_lie_where_the_contract_says(store: ArtifactStore, backend: Backend, publish: Publish) -> None:
    art = publish(store, "aqua_dataset", {"a": b"one", "b": b"two", "c": b"one"})
    assert list(backend.keys("blobs/")) == sorted([blob_key(b"one"), blob_key(b"two")])
    assert list(backend.keys("manifests/")) == [f"manifests/{art.sha256}.json"]
    assert backend.read(f"manifests/{art.sha256}.json").data == art.manifest.to_bytes()
    assert list(backend.keys("refs/")) == ["refs/aqua_dataset/latest.json"]


def test_an_identical_rerun_has_the_same_data_version(store: ArtifactStore, publish: Publish) -> None:
    first = publish(store, "aqua_dataset", FILES, records={"log": b"1"}, run_id="r1")
    again = publish(store, "aqua_dataset", FILES, records={"log": b"2"}, run_id="r2", metrics={"seconds": 9.0})
    other = publish(store, "aqua_dataset", FILES | {"sub/empty.json": b" "})
    assert again.data_version == first.data_version
    assert again.sha256 != first.sha256
    assert other.data_version != first.data_version
    assert store.latest("aqua_dataset").sha256 == other.sha256
    assert store.get(first.sha256).record("log").read_bytes() == b"1"


def test_an_empty_store_has_nothing(store: ArtifactStore) -> None:
    assert store.latest("aqua_dataset") is None
    assert store.assets() == []
    assert not store.has("0" * 64)
    with pytest.raises(ArtifactError, match=f"no manifest {'0' * 64} in {store.uri}"):
        store.get("0" * 64)
    with pytest.raises(ArtifactError, match="has no asset or manifest 'x'; it is empty: materialize an asset first"):
        store.resolve("x")


def test_resolve_takes_assets_hashes_and_their_beginnings(store: ArtifactStore, publish: Publish) -> None:
    art = publish(store, "aqua_dataset", {"a": b"1"})
    for wanted in ("aqua_dataset", art.sha256, art.sha256[:8], art.sha256[:8].upper()):
        assert store.resolve(wanted).sha256 == art.sha256
    with pytest.raises(ArtifactError, match="has no asset or manifest 'aqua'; it has aqua_dataset"):
        store.resolve("aqua")


@pytest.mark.parametrize("damage", ["flipped", "short", "missing"])
def test_damage_is_named_with_the_way_out(store: ArtifactStore, uri: str, publish: Publish, damage: str) -> None:
    data = publish(store, "aqua_dataset", {"train.parquet": b"rows"})
    art = publish(store, "sft_checkpoint", {"model.safetensors": b"weights", "ok": b"ok"}, parents=[data])
    key = blob_key(b"weights")
    if damage == "missing":
        remove(uri, key)
    else:
        open_backend(uri).write(key, b"weightz" if damage == "flipped" else b"weigh")
    with pytest.raises(ArtifactError) as error:
        art.path("model.safetensors")
    for part in (
        f"file model.safetensors of sft_checkpoint (manifest {art.sha256[:12]}, run run-of-sft_checkpoint)",
        "is missing" if damage == "missing" else "is damaged",
        f"{uri}/{key}",
        f"Its parents can rebuild it and are there: aqua_dataset (manifest {data.sha256[:12]})",
        "AQUARAT_PROFILE=demo dagster asset materialize --select sft_checkpoint",
    ):
        assert part in str(error.value)
    assert art.path("ok").read_bytes() == b"ok"
    publish(store, "sft_checkpoint", {"model.safetensors": b"weights"})
    assert art.path("model.safetensors").read_bytes() == b"weights"


def test_advice_names_all_that_must_be_rebuilt_first(store: ArtifactStore, uri: str, publish: Publish) -> None:
    data = publish(store, "aqua_dataset", {"train.parquet": b"rows"})
    chat = publish(store, "chat_datasets", {"identity.parquet": b"chat"})
    mid = publish(store, "mid_checkpoint", {"model.safetensors": b"mid"}, parents=[data, chat])
    sft = publish(store, "sft_checkpoint", {"model.safetensors": b"sft"}, parents=[mid, data])
    for gone in (b"sft", b"mid", b"rows"):
        remove(uri, blob_key(gone))
    with pytest.raises(ArtifactError, match="but files of aqua_dataset, mid_checkpoint are missing too") as error:
        sft.path("model.safetensors")
    assert str(error.value).endswith("--select aqua_dataset,mid_checkpoint,sft_checkpoint")
    with pytest.raises(ArtifactError, match=r"It has no parents, so its source rebuilds it: .*--select aqua_dataset"):
        data.path("train.parquet")


def test_a_damaged_manifest_is_refused(store: ArtifactStore, backend: Backend, publish: Publish) -> None:
    art = publish(store, "aqua_dataset", {"a": b"1"})
    data = bytearray(art.manifest.to_bytes())
    data[len(data) // 2] ^= 1
    backend.write(f"manifests/{art.sha256}.json", bytes(data))
    with pytest.raises(ArtifactError, match=f"manifest {art.sha256} in .* is damaged"):
        store.latest("aqua_dataset")


def test_a_damaged_local_copy_is_fetched_again(store: ArtifactStore, uri: str, publish: Publish) -> None:
    path = publish(store, "aqua_dataset", {"a": b"right"}).path("a")
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    assert ArtifactStore.open(uri).latest("aqua_dataset").path("a").read_bytes() == b"right"


def test_an_unknown_file_is_answered_with_the_known_ones(store: ArtifactStore, publish: Publish) -> None:
    art = publish(store, "aqua_dataset", {"a": b"1", "b": b"2"})
    with pytest.raises(ArtifactError, match="has no c among its files: a, b"):
        art.path("c")
    with pytest.raises(ArtifactError, match="has no a among its records: none"):
        art.record("a")


def test_jobs_hold_small_objects(store: ArtifactStore, uri: str) -> None:
    job = store.job("run-1", "sft_checkpoint", 1)
    assert job.uri == f"{uri}/jobs/run-1/sft_checkpoint/1"
    assert job.read_json("spec.json") is None
    job.write_json("spec.json", {"steps": 1})
    job.write_json("spec.json", {"steps": 2})
    assert JobDir.at(job.uri).read_json("spec.json") == {"steps": 2}
    assert [job.create_json("claim.json", {"by": n}) for n in (1, 2, 3)] == [True, False, False]
    assert job.read_json("claim.json") == {"by": 1}
    job.write_json("status/node0.json", [1])
    assert store.job("run-1", "sft_checkpoint", 2).read_json("status/node0.json") is None
    for bad in ("../spec.json", "/spec.json", "a//b", ""):
        with pytest.raises(StoreError, match="cannot name a job"):
            job.read_json(bad)
    with pytest.raises(StoreError, match="cannot name a job"):
        store.job("..", "step", 1)
    with pytest.raises(StoreError, match="is not the URI of a job"):
        JobDir.at(f"{uri}/manifests/x")


def test_of_several_swaps_from_one_version_one_wins(backend: Backend) -> None:
    assert backend.create("refs/a", b"0")
    assert not backend.create("refs/a", b"1")
    seen = backend.read("refs/a")
    assert backend.swap("refs/a", b"1", seen.version)
    assert not backend.swap("refs/a", b"2", seen.version)
    assert backend.read("refs/a").data == b"1"
    assert not backend.swap("refs/none", b"2", seen.version)
    assert backend.read("refs/none") is None


def test_an_object_that_others_write_too_is_replaced_in_the_end(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    assert replace_object(backend, "refs/a", b"1", seen.append) is None
    assert replace_object(backend, "refs/a", b"1", seen.append) is None and seen == []
    swap = backend.swap

    def late(key: str, data: bytes, expected: str) -> bool:
        """Another writer is faster, the first time."""
        monkeypatch.setattr(backend, "swap", swap)
        backend.write(key, b"other")
        return swap(key, data, expected)

    monkeypatch.setattr(backend, "swap", late)
    assert replace_object(backend, "refs/a", b"2", seen.append) == b"other"
    assert seen == [b"1", b"other"] and backend.read("refs/a").data == b"2"
    monkeypatch.setattr(backend, "swap", lambda *_: False)
    with pytest.raises(StoreError, match=f"{backend.uri}/refs/a keeps being moved by other writers"):
        replace_object(backend, "refs/a", b"3")


def test_a_file_that_changed_meanwhile_is_not_published(backend: Backend, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"right")
    digest = digest_file(source)
    source.write_bytes(b"wrong")
    with pytest.raises(ArtifactError, match="changed while it was being published"):
        backend.put_file("blobs/x", source, digest)
    assert list(backend.keys("tmp/")) == []
    source.write_bytes(b"right")
    backend.put_file("blobs/x", source, digest)
    assert backend.get_file("blobs/x", tmp_path / "back") == digest
    assert (tmp_path / "back").read_bytes() == b"right"


def test_keys_are_listed_by_prefix(backend: Backend) -> None:
    for key in ("manifests/ab1.json", "manifests/ab2.json", "manifests/b.json", "refs/a/latest.json"):
        backend.create(key, b"x")
    assert list(backend.keys("manifests/ab")) == ["manifests/ab1.json", "manifests/ab2.json"]
    assert list(backend.keys("refs/")) == ["refs/a/latest.json"]
    assert list(backend.keys("nothing/")) == []
    assert backend.size("refs/a/latest.json") == 1
    assert backend.size("refs/b/latest.json") is None
    assert backend.get_file("refs/b/latest.json", Path("/dev/null")) is None


def test_what_is_deleted_is_gone(backend: Backend) -> None:
    assert not backend.delete("manifests/none.json")
    backend.create("manifests/a.json", b"12345")
    (seen,) = backend.stats("manifests/")
    assert (seen.key, seen.size) == ("manifests/a.json", 5)
    assert abs(seen.modified - time.time()) < 60
    assert seen.crc32c in (None, digest_bytes(b"12345").crc32c)
    assert backend.delete("manifests/a.json", seen)
    assert backend.read("manifests/a.json") is None
    assert list(backend.stats("manifests/")) == []
    backend.create("manifests/a.json", b"other")
    assert not backend.delete("manifests/a.json", seen), "it is not what was listed"
    assert backend.read("manifests/a.json").data == b"other"
    assert backend.delete("manifests/a.json")


def test_a_file_that_a_publication_found_in_place_is_not_deleted_meanwhile(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aquarat_core.artifacts.gcs._TOUCH_AFTER", 0.0)
    source = tmp_path / "file"
    source.write_bytes(b"weights")
    backend.put_file("blobs/x", source, digest_file(source))
    (seen,) = backend.stats("blobs/")
    backend.put_file("blobs/x", source, digest_file(source))
    assert not backend.delete("blobs/x", seen)
    (touched,) = backend.stats("blobs/")
    assert touched.modified >= seen.modified and touched.version != seen.version
    assert backend.get_file("blobs/x", tmp_path / "back") == digest_file(source)
    assert backend.delete("blobs/x", touched)


def test_check_writable_passes_again_and_again(store: ArtifactStore) -> None:
    store.check_writable()
    store.check_writable()


def test_nothing_to_publish_is_an_error(store: ArtifactStore, tmp_path: Path, publish: Publish) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    fields = {"kind": "k", "config": {}, "profile": "p", "code": CodeVersion(version="v"), "parents": []}
    fields |= {"metrics": {}, "seeds": {}, "run_id": "r"}
    with pytest.raises(ArtifactError, match=f"cannot publish x: {folder} holds no file"):
        store.publish(asset="x", directory=folder, **fields)
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="link: it is a symbolic link"):
        store.publish(asset="x", directory=folder, **fields)
    assert store.latest("x") is None


def test_a_failed_publication_leaves_the_latest_one(store: ArtifactStore, publish: Publish) -> None:
    art = publish(store, "x", {"a": b"1"})
    with pytest.raises(ArtifactError, match="loss is nan"):
        publish(store, "x", {"a": b"2"}, metrics={"loss": float("nan")})
    assert store.latest("x").sha256 == art.sha256


def test_folders_of_runs_do_not_outlive_what_was_in_them(tmp_path: Path) -> None:
    backend = open_backend(f"file://{tmp_path}/store")
    for key in ("work/base/key/1-1/commit.json", "jobs/r/s/1/status/node0.json", "blobs/sha256/00/x"):
        backend.write(key, b"{}")
    backend.write("jobs/r/s/1/spec.json", b"{}")
    for key in ("work/base/key/1-1/commit.json", "jobs/r/s/1/status/node0.json", "blobs/sha256/00/x"):
        assert backend.delete(key)
    folders = {p.relative_to(tmp_path / "store").as_posix() for p in (tmp_path / "store").rglob("*") if p.is_dir()}
    kept = {"blobs", "blobs/sha256", "blobs/sha256/00", "jobs", "jobs/r", "jobs/r/s", "jobs/r/s/1"}
    assert folders == kept | {"tmp", "work"}


def test_writers_and_removers_of_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    backend = open_backend(f"file://{tmp_path}/store")

    def turn(number: int) -> None:
        for _ in range(100):
            backend.write(f"work/a/b/c/{number}", b"x")
            assert backend.read(f"work/a/b/c/{number}") is not None
            assert backend.delete(f"work/a/b/c/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(turn, range(4)))
    assert list((tmp_path / "store" / "work").iterdir()) == []
