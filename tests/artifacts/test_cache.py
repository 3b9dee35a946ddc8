"""The cache's limit, and several processes in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.artifacts import ArtifactStore, cache
from aquarat_core.settings import cache_limit

from .conftest import Publish, start, work

pytestmark = pytest.mark.slow

SIZE = 1000


@pytest.fixture
def store(tmp_path: Path, publish: Publish) -> ArtifactStore:
    """Assets a, b, c and d with one file of `SIZE` bytes each."""
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    for asset in "abcd":
        publish(store, asset, {"file": asset.encode() * SIZE})
    return store


def read(uri: str, *assets: str) -> list[str]:
    """Reads the assets' files in a process of their own; the paths that it was given."""
    return work(start("read", uri, *assets))[0].split()


def cached(tmp_path: Path) -> set[str]:
    """First letters of what the cache holds."""
    return {p.read_text()[0] for p in (tmp_path / "cache" / "blobs").glob("*/*")}


def test_what_was_used_least_lately_goes_first(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUARAT_CACHE_LIMIT", "0.003MB")
    (a,) = read(store.uri, "a")
    read(store.uri, "b")
    read(store.uri, "c")
    assert cached(tmp_path) == {"a", "b", "c"}
    read(store.uri, "a")
    read(store.uri, "d")
    assert cached(tmp_path) == {"a", "c", "d"}, "b was used least lately"
    assert Path(a).read_text() == "a" * SIZE
    kept = {p.read_text()[0] for p in (tmp_path / "cache" / "trees").rglob("file")}
    assert kept == {"a", "c", "d"}, "a link keeps the bytes on the disk"


def test_a_blob_that_another_process_removes_meanwhile_does_not_end_the_search_for_room(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUARAT_CACHE_LIMIT", "0.002MB")
    read(store.uri, "a")
    # Listed, and not there when it is looked at.
    (tmp_path / "cache" / "blobs" / "gone").mkdir()
    (tmp_path / "cache" / "blobs" / "gone" / "gone").symlink_to(tmp_path / "nowhere")
    (b,) = read(store.uri, "b")
    assert Path(b).read_text() == "b" * SIZE


def test_what_a_living_process_uses_stays(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUARAT_CACHE_LIMIT", "0.001MB")
    holder = start("hold", store.uri, "a")
    assert holder.stdout.readline() == "ready\n"
    holder.stdin.write("\n")
    holder.stdin.flush()
    path = Path(holder.stdout.readline().strip())
    read(store.uri, "b")
    read(store.uri, "c")
    assert path.read_text() == "a" * SIZE
    assert cached(tmp_path) == {"a", "c"}
    holder.kill()
    holder.communicate()
    read(store.uri, "d")
    assert cached(tmp_path) == {"d"}, "nobody uses the others any more"
    assert not path.exists()
    users = list((tmp_path / "cache" / "users").iterdir())
    assert len(users) <= 1, "lists of dead processes go"


def test_processes_that_want_the_same_bytes_fetch_them_once(gs_uri: str, publish: Publish, tmp_path: Path) -> None:
    publish(ArtifactStore.open(gs_uri), "a", {"file": os.urandom(3_000_000)})
    outputs = work(*(start("count_fetches", gs_uri, "a") for _ in range(4)))
    assert sorted(int(out) for out in outputs) == [0, 0, 0, 1]


def test_a_fetch_that_fails_leaves_nothing_that_looks_whole(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = store.latest("a")
    entry = artifact.manifest.files[0]
    (tmp_path / "store/blobs/sha256" / entry.sha256[:2] / entry.sha256).unlink()
    with pytest.raises(ValueError, match="is missing"):
        artifact.path("file")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and entry.sha256 in p.name] == []


@pytest.mark.parametrize(("said", "limit"), [("200GB", 200e9), ("1.5 TB", 1.5e12), ("512MB", 512e6), ("", 100e9)])
def test_the_limit_is_read(monkeypatch: pytest.MonkeyPatch, said: str, limit: float) -> None:
    monkeypatch.setenv("AQUARAT_CACHE_LIMIT", said)
    assert cache_limit() == limit


@pytest.mark.parametrize("said", ["much", "-1GB", "5", "GB"])
def test_a_limit_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("AQUARAT_CACHE_LIMIT", said)
    with pytest.raises(ValueError, match=r"AQUARAT_CACHE_LIMIT is .*such as 200GB"):
        cache_limit()


def test_no_process_clears_the_cache_while_another_makes_its_list(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the worst moment: this process has made its list and not yet locked it, as a dead one's is not."""
    monkeypatch.setenv("AQUARAT_CACHE_LIMIT", "0.001MB")
    lock, flock, tried = tmp_path / "cache" / "locks" / "users", fcntl.flock, []

    def at_the_worst_moment(file: Any, how: int) -> None:
        if not tried and Path(str(getattr(file, "name", ""))).parent.name == "users":
            tried.append(file.name)
            lock.parent.mkdir(parents=True, exist_ok=True)
            with lock.open("ab") as f:
                try:
                    flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass  # Others have to wait.
                else:
                    flock(f, fcntl.LOCK_UN)
                    read(store.uri, "b", "c")
        flock(file, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", at_the_worst_moment)
        path = ArtifactStore.open(store.uri).latest("a").path("file")
    assert tried
    read(store.uri, "b", "c", "d")
    assert path.read_text() == "a" * SIZE, "this process lives and was given it"


def test_threads_of_a_process_have_one_list(store: ArtifactStore, tmp_path: Path) -> None:
    users = tmp_path / "cache" / "users"
    for _ in range(20):
        cache._USERS.pop(tmp_path / "cache", None)
        shutil.rmtree(users, ignore_errors=True)
        made = cache.Cache(tmp_path / "cache", 1 << 30)
        gate = threading.Barrier(8)

        def use(number: int, made: cache.Cache = made, gate: threading.Barrier = gate) -> None:
            gate.wait()
            made._use(f"{number}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(use, range(8)))
        (listed,) = users.iterdir()
        assert sorted(listed.read_text().split()) == sorted(map(str, range(8)))


def test_what_dead_processes_leave_in_the_cache_goes(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        read(store.uri, "a")
    root = tmp_path / "cache"
    assert len(list((root / "users").iterdir())) == 1, "each process removes the lists of the dead"
    for name in ("tmp", "partial"):
        (root / name).mkdir(exist_ok=True)
        (root / name / "left").write_bytes(b"x")
    monkeypatch.setenv("AQUARAT_CACHE_LIMIT", "0.001MB")
    read(store.uri, "b", "c")
    read(store.uri, "d")
    assert {p.name for p in (root / "tmp").iterdir()} == {"left"}, "younger than a day"
    trees = [p for p in (root / "trees").rglob("*") if p.is_dir()]
    assert all(any(p.iterdir()) for p in trees), "no folder is left empty"
    cache._USERS.pop(root, None)
    monkeypatch.setattr(cache, "_LEFT_OVER", -1.0)
    store.latest("d").path("file")
    assert list((root / "tmp").iterdir()) == list((root / "partial").iterdir()) == []


def test_trees_that_are_cleared_meanwhile_do_not_end_the_search_for_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    real = Path.stat

    def stat(self: Path, **how: Any) -> os.stat_result:
        found = real(self, **how)
        for folder in tmp_path.iterdir():
            if folder not in (self, self.parent):
                shutil.rmtree(folder)
        return found

    monkeypatch.setattr(Path, "stat", stat)
    (paths,) = cache._links(tmp_path).values()
    assert [path.name for path in paths] == ["file"]


def test_what_was_released_as_often_as_it_was_given_may_go(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUARAT_CACHE_LIMIT", "0.001MB")
    a, b = store.latest("a"), store.latest("b")
    a.path("file")
    a.path("file")
    path = b.path("file")
    (listed,) = (tmp_path / "cache" / "users").iterdir()
    assert len(listed.read_text().split()) == 2
    a.release("file")
    read(store.uri, "c")
    assert cached(tmp_path) == {"a", "b", "c"}, "it was given twice"
    a.release("file")
    assert listed.read_text() == f"{b.entry('file').sha256}\n"
    read(store.uri, "d")
    assert cached(tmp_path) == {"b", "d"} and path.read_text() == "b" * SIZE
    assert a.path("file").read_text() == "a" * SIZE, "it is fetched again"
    assert sorted(listed.read_text().split()) == sorted(x.entry("file").sha256 for x in (a, b))


def test_a_fetch_that_fails_is_no_use(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = store.latest("a")
    entry = artifact.entry("file")
    blob = tmp_path / "store/blobs/sha256" / entry.sha256[:2] / entry.sha256
    kept = blob.read_bytes()
    blob.unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match="is missing"):
            artifact.path("file")
    blob.write_bytes(kept)
    artifact.path("file")
    artifact.release("file")
    (listed,) = (tmp_path / "cache" / "users").iterdir()
    assert listed.read_text() == ""
