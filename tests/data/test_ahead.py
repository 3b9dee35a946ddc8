"""Files are in the cache before they are needed, and leave it afterwards; a store that fails or hangs is noticed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion, StoreError
from aquarat_core.artifacts.transfer import OnBytes, no_progress
from aquarat_core.data import ahead
from aquarat_core.data.ahead import FilesAhead
from aquarat_core.runtime.preemption import never
from tests.patience import limit, wait_until

SIZE = 1_000
FILES = [f"{letter}.bin" for letter in "abcdef"]


class Store:
    """Stands before a backend's `get_file`: counts, fails, and hangs until `go` is set."""

    def __init__(self, store: ArtifactStore) -> None:
        self.go, self.failing = threading.Event(), False
        self.fetched = list[str]()
        self.go.set()
        self._get, store.backend.get_file = store.backend.get_file, self.get_file

    def get_file(self, key: str, target: Path, have: int = 0, advance: OnBytes = no_progress) -> object:
        self.go.wait()
        if self.failing:
            raise StoreError("the store does not answer")
        found = self._get(key, target, have, advance)
        self.fetched.append(target.read_text()[0])
        return found


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AQUARAT_CACHE_LIMIT", "0.002MB")
    folder = tmp_path / "made"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(name[0] * SIZE)
    return ArtifactStore.open(f"file://{tmp_path}/store").publish(
        asset="tokens", kind="dataset", directory=folder, config={}, profile="unit", code=CodeVersion(version="1" * 64),
        parents=(), metrics={}, seeds={}, run_id="run",
    )  # fmt: skip


@pytest.fixture
def store(artifact: Artifact) -> Iterator[Store]:
    made = Store(artifact.store)
    yield made
    made.go.set()


@pytest.fixture
def files(artifact: Artifact, store: Store) -> Iterator[FilesAhead]:
    files = FilesAhead(artifact)
    yield files
    store.go.set()
    files.close()
    if files._thread is not None:
        files._thread.join(limit(10))
        assert not files._thread.is_alive()


@pytest.fixture
def cached(tmp_path: Path) -> Callable[[], set[str]]:
    return lambda: {p.read_text()[0] for p in (tmp_path / "cache" / "blobs").glob("*/*")}


def test_files_come_before_they_are_waited_for_and_leave(
    files: FilesAhead, store: Store, cached: Callable[[], set[str]], tmp_path: Path
) -> None:
    files.want(FILES[:2])
    wait_until(lambda: store.fetched == ["a", "b"], 10, "they are fetched in this order")
    assert files.wait("b.bin", never).read_text() == "b" * SIZE
    files.want(FILES[1:3])
    wait_until(lambda: store.fetched == ["a", "b", "c"], 10, "the next is fetched, and no other again")
    assert cached() == {"b", "c"}, "the first was released, and the cache has room for two"
    files.want(FILES[:1])
    assert files.wait("a.bin", never).read_text() == "a" * SIZE
    assert store.fetched == ["a", "b", "c", "a"], "it is fetched again"
    files.close()
    (listed,) = (tmp_path / "cache" / "users").iterdir()
    wait_until(lambda: listed.read_text() == "", 10, "nothing is in use any more")


def test_what_is_waited_for_comes_first(files: FilesAhead, store: Store) -> None:
    store.go.clear()
    files.want(FILES)
    threading.Timer(0.2, store.go.set).start()
    assert files.wait("e.bin", never)
    assert store.fetched[:2] == ["a", "e"] or store.fetched[:1] == ["e"]


def test_a_failure_is_raised_when_the_file_is_needed_and_forgotten_when_it_comes(
    files: FilesAhead, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "AGAIN", 0.05)
    files.want(FILES[:2])
    assert files.wait("a.bin", never) and files.wait("b.bin", never)
    store.failing = True
    files.want(FILES[1:3])
    assert files.wait("b.bin", never), "what is here is not affected"
    with pytest.raises(StoreError, match="the store does not answer"):
        files.wait("c.bin", never)
    with pytest.raises(StoreError, match="the store does not answer"):
        files.wait("c.bin", never)
    store.failing = False
    assert files.wait("c.bin", never)
    store.failing = True
    files.want(FILES[2:4])
    time.sleep(0.2)
    store.failing = False
    wait_until(lambda: store.fetched[-1] == "d", 10, "it is tried again though nobody waits")


def test_a_damaged_file_is_named(files: FilesAhead, artifact: Artifact, tmp_path: Path) -> None:
    entry = artifact.entry("c.bin")
    blob = tmp_path / "store/blobs/sha256" / entry.sha256[:2] / entry.sha256
    os.chmod(blob, 0o644)
    blob.write_text("x" * SIZE)
    files.want(FILES)
    assert files.wait("a.bin", never)
    with pytest.raises(ValueError, match=r"file c\.bin of tokens .* is damaged"):
        files.wait("c.bin", never)


def test_a_stop_does_not_wait_for_a_store_that_hangs(files: FilesAhead, store: Store) -> None:
    store.go.clear()
    files.want(FILES[:1])
    asked = threading.Event()
    threading.Timer(0.2, asked.set).start()
    assert files.wait("a.bin", asked.is_set) is None
    began = time.monotonic()
    files.close()
    assert time.monotonic() - began < limit(5)
    assert store.fetched == []
