"""Stores that cannot be used say what is wrong and what to do."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactError, ArtifactStore, StoreError
from aquarat_core.artifacts.cache import Cache
from aquarat_core.artifacts.errors import HostDiskFullError
from aquarat_core.artifacts.manifest import FileEntry
from aquarat_core.runtime.scratch import scratch_folder

from .conftest import Publish
from .fault_proxy import FaultProxy


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://bucket/x", "unknown scheme 's3': use file://, gs:// or memory://"),
        ("dagster_home/store", "is not an absolute path: write file:///absolute/path"),
        ("file://host/x", "is not an absolute path"),
        ("", "is not an absolute path"),
        ("gs://", "does not name a bucket: write gs://bucket"),
        ("gs:///x", "does not name a bucket"),
        ("gs://Not A Bucket/x", "does not name a bucket"),
    ],
)
def test_a_uri_that_is_none(uri: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        ArtifactStore.open(uri)


@pytest.mark.parametrize("below", ["file", "file/store", "file/a/b"])
def test_a_store_below_a_regular_file(tmp_path: Path, publish: Publish, below: str) -> None:
    (tmp_path / "file").write_text("I am no directory")
    store = ArtifactStore.open(f"file://{tmp_path}/{below}")
    for use in (store.check_writable, lambda: publish(store, "x", {"a": b"1"})):
        with pytest.raises(StoreError, match=r"a file, not a directory \(.*\)\. Set AQUARAT_STORE") as error:
            use()
        assert f"store file://{tmp_path}/{below} cannot be used" in str(error.value)
    assert (tmp_path / "file").read_text() == "I am no directory"


def test_a_store_where_nothing_can_be_created() -> None:
    store = ArtifactStore.open("file:///proc/aquarat")
    assert store.latest("x") is None
    with pytest.raises(StoreError, match=r"store file:///proc/aquarat cannot be used: .*Set AQUARAT_STORE"):
        store.check_writable()


@pytest.mark.parametrize("named", ["../../outside", "/etc/passwd", "x/../../../outside"])
def test_a_ref_that_leads_outside_the_store(tmp_path: Path, publish: Publish, named: str) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    publish(store, "x", {"a": b"1"})
    store.backend.write("refs/x/latest.json", json.dumps({"manifest_sha256": named}).encode())
    with pytest.raises((StoreError, ArtifactError), match=r"leads outside the store|no manifest /etc/passwd"):
        store.latest("x")
    with pytest.raises(StoreError, match=r"leads outside the store .*: keys are relative, without '\.\.'"):
        store.backend.write("../outside", b"1")
    assert not (tmp_path / "outside").exists()


def test_a_cache_that_cannot_be_written(tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "file"))
    art = publish(ArtifactStore.open(f"file://{tmp_path}/store"), "x", {"a": b"1"})
    with pytest.raises(StoreError, match=rf"cache {tmp_path}/file, fetching a, cannot be used: .*Set AQUARAT_CACHE"):
        art.path("a")


def test_a_bucket_that_does_not_exist(gs_uri: str, publish: Publish) -> None:
    store = ArtifactStore.open("gs://no-such-bucket/x")
    uses = [store.check_writable, store.assets, lambda: store.latest("x"), lambda: publish(store, "x", {"a": b"1"})]
    for use in uses:
        with pytest.raises(StoreError, match=r"bucket no-such-bucket .* does not exist: create it with"):
            use()


def test_credentials_that_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(StoreError, match=r"refuses the credentials: .*Run `gcloud auth application-default login`"):
        ArtifactStore.open("gs://some-bucket").latest("x")


@pytest.mark.parametrize(
    ("said", "role"),
    [
        ("aquarat@p.iam does not have storage.objects.create access to the object.", "roles/storage.objectUser"),
        ("aquarat@p.iam does not have storage.objects.list access to the bucket.", "roles/storage.objectViewer"),
    ],
)
def test_access_that_is_forbidden(proxy: FaultProxy, gs_uri: str, said: str, role: str) -> None:
    proxy.forbid = said
    permission = said.split()[4]
    with pytest.raises(StoreError, match=rf"refuses access: .*The permission {permission} is missing.*needs {role} on"):
        ArtifactStore.open(gs_uri).check_writable()


def lose_first_write(proxy: FaultProxy) -> list[str]:
    """Loses the answer to the next write. The list returned holds that write once it happened."""
    lost: list[str] = []

    def plan(method: str, path: str) -> str:
        if method == "POST" and not lost:
            lost.append(path)
            return "lost"
        return "pass"

    proxy.plan = plan
    return lost


def test_a_claim_whose_answer_was_lost_is_still_won(proxy: FaultProxy, gs_uri: str) -> None:
    job = ArtifactStore.open(gs_uri).job("run", "step", 1)
    lost = lose_first_write(proxy)
    assert job.create_json("claim.json", {"worker": 1})
    assert len(lost) == 1
    assert not job.create_json("claim.json", {"worker": 1})


def test_a_claim_that_another_made_first_is_lost(proxy: FaultProxy, gs_uri: str) -> None:
    job = ArtifactStore.open(gs_uri).job("run", "step", 1)
    proxy.plan = lambda method, path: "race" if method == "POST" else "pass"
    assert not job.create_json("claim.json", {"worker": 1})


def test_a_publication_survives_lost_answers(proxy: FaultProxy, gs_uri: str, publish: Publish) -> None:
    store = ArtifactStore.open(gs_uri)
    publish(store, "x", {"a": b"1"})
    lost = lose_first_write(proxy)
    art = publish(store, "x", {"a": b"2"})
    assert len(lost) == 1
    assert store.latest("x").sha256 == art.sha256
    assert art.path("a").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, HostDiskFullError), (errno.EDQUOT, HostDiskFullError), (errno.EROFS, StoreError)],
)
def test_a_full_disk_of_the_host_is_told_from_other_trouble_with_its_cache(
    tmp_path: Path, number: int, kind: type[StoreError]
) -> None:
    def fetch(path: Path, have: int) -> None:
        raise OSError(number, "as the system calls it", str(path))

    entry = FileEntry(path="model", size=1, sha256="0" * 64, crc32c="AAAAAA==")
    with pytest.raises(StoreError, match=r"cache .*, fetching model, cannot be used: .*Set AQUARAT_CACHE") as error:
        Cache(tmp_path, 1000).file("tree", entry, fetch)
    assert type(error.value) is kind


def test_a_full_scratch_disk_is_the_hosts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "as the system calls it")

    monkeypatch.setenv("AQUARAT_SCRATCH", str(tmp_path))
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(HostDiskFullError, match=r"the disk is full\. Set AQUARAT_SCRATCH"), scratch_folder("stage"):
        pass
