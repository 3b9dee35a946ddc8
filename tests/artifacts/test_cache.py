"""The cache's limit, and several processes in it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

import pytest

from aquarat_core.artifacts import ArtifactStore, cache
from aquarat_core.settings import cache_limit

from .conftest import Publish, start, work

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


def test_nobody_can_clear_while_a_process_makes_its_list(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making the file and locking it, another would take it for a dead process's and leave its blobs free."""
    monkeypatch.setattr(cache, "_USERS", {})
    flock, seen = fcntl.flock, []

    def locking(f: IO, how: int) -> None:
        if Path(f.name).parent.name == "users" and how == fcntl.LOCK_EX:
            with (tmp_path / "cache/locks/users").open("ab") as other, pytest.raises(BlockingIOError):
                flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen.append(f.name)
        flock(f, how)

    monkeypatch.setattr(cache.fcntl, "flock", locking)
    store.latest("a").path("file")
    assert len(seen) == 1


def test_lists_of_dead_processes_go_with_the_next_process(store: ArtifactStore, tmp_path: Path) -> None:
    for _ in range(3):
        read(store.uri, "a")
    assert len(list((tmp_path / "cache/users").iterdir())) == 1
