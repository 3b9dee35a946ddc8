"""Transfers over a network that breaks: every operation ends right or with a clear error, and sends little twice."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from aquarat_core.artifacts import ArtifactStore, digest_file
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.retry import Retry
from tests.patience import limit

from .conftest import Publish
from .fault_proxy import FaultProxy
from .fault_sequences import KIB, run_sequence, small_sizes

SEEDS = range(20)


@pytest.fixture(autouse=True)
def _small() -> object:
    with small_sizes():
        yield


@pytest.mark.slow
def test_seeded_fault_sequences(proxy: FaultProxy, gs_uri: str, gcs_url: str, tmp_path: Path) -> None:
    """`./run bench store_faults` runs many more."""
    seen, failed = set(), 0
    for seed in SEEDS:
        os.environ["STORAGE_EMULATOR_HOST"] = gcs_url
        use_proxy = mock.patch.dict(os.environ, STORAGE_EMULATOR_HOST=proxy.url)
        with small_sizes(deadline=0.5 if seed % 10 == 9 else 10.0):
            outcome = run_sequence(seed, proxy, f"{gs_uri}/{seed}", tmp_path / str(seed), use_proxy)
        seen |= set(outcome.faults)
        failed += bool(outcome.failed)
    assert seen == {"503", "429", "reset", "reset_in_upload", "lost", "cut", "slow", "race", "flipped", "pass"}
    assert failed >= 1, "of the servers that died for good at least one was noticed"


def sent(proxy: FaultProxy) -> int:
    return sum(length for method, path, length in proxy.requests if "uploadType=media" in path)


def test_an_upload_that_was_cut_off_goes_on_with_what_is_missing(
    proxy: FaultProxy, gs_uri: str, tmp_path: Path
) -> None:
    source = tmp_path / "weights"
    source.write_bytes(os.urandom(640 * KIB))
    digest = digest_file(source)
    budget = iter(["pass"] * 6)

    def dies_after_six_parts(method: str, path: str) -> str:
        return next(budget, "503") if "uploadType=media" in path else "pass"

    proxy.plan = dies_after_six_parts
    with small_sizes(deadline=0.2), pytest.raises(ValueError, match="does not answer as it should"):
        open_backend(gs_uri).put_file("blobs/x", source, digest)
    assert open_backend(gs_uri).size("blobs/x") is None
    assert len(list(open_backend(gs_uri).keys(f"tmp/parts/{digest.sha256}/"))) == 6

    proxy.plan = lambda method, path: "pass"
    proxy.requests.clear()
    open_backend(gs_uri).put_file("blobs/x", source, digest)
    assert sent(proxy) == 4 * 64 * KIB
    assert open_backend(gs_uri).digest("blobs/x") == digest
    assert list(open_backend(gs_uri).keys("tmp/")) == []


def test_a_file_that_is_there_is_not_sent_again(proxy: FaultProxy, gs_uri: str, publish: Publish) -> None:
    store = ArtifactStore.open(gs_uri)
    files = {"a": os.urandom(300 * KIB), "b": b"small"}
    publish(store, "x", files)
    assert sent(proxy) == 300 * KIB + 5
    proxy.requests.clear()
    again = publish(store, "y", files)
    assert sent(proxy) == 0
    assert {f.path: again.path(f.path).read_bytes() for f in again.manifest.files} == files


def test_a_download_goes_on_where_it_broke(proxy: FaultProxy, gs_uri: str, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(os.urandom(320 * KIB))
    digest = digest_file(source)
    backend = open_backend(gs_uri)
    backend.put_file("blobs/x", source, digest)
    cut = iter(["pass", "cut", "pass", "cut", "cut"])
    proxy.plan = lambda method, path: next(cut, "pass") if "alt=media" in path else "pass"
    proxy.requests.clear()
    assert backend.get_file("blobs/x", tmp_path / "target") == digest
    assert next(cut, None) is None
    gets = [path for method, path, _ in proxy.requests if "alt=media" in path]
    assert len(gets) == 10 + 3, "ten ranges, and the rest of each of the three that broke"

    # A process that was killed left the beginning; a beginning that is wrong is noticed by the digest.
    (tmp_path / "target").write_bytes(source.read_bytes()[: 200 * KIB])
    seen: list[int] = []
    assert backend.get_file("blobs/x", tmp_path / "target", have=200 * KIB, advance=seen.append) == digest
    assert sum(seen) == 120 * KIB
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    (tmp_path / "target").write_bytes(bytes(200 * KIB))
    assert backend.get_file("blobs/x", tmp_path / "target", have=200 * KIB) != digest


@pytest.mark.parametrize("have", ["right", "wrong", "too long"])
def test_the_cache_takes_up_what_a_killed_reader_left(gs_uri: str, publish: Publish, tmp_path: Path, have: str) -> None:
    data = os.urandom(200 * KIB)
    artifact = publish(ArtifactStore.open(gs_uri), "x", {"weights": data})
    partial = tmp_path / "cache" / "partial" / artifact.manifest.files[0].sha256
    partial.parent.mkdir(parents=True)
    partial.write_bytes({"right": data[:100_000], "wrong": bytes(100_000), "too long": bytes(300_000)}[have])
    assert artifact.path("weights").read_bytes() == data
    assert not partial.exists()


def test_bytes_spoiled_on_the_way_are_fetched_again(proxy: FaultProxy, gs_uri: str, publish: Publish) -> None:
    data = os.urandom(200 * KIB)
    artifact = publish(ArtifactStore.open(gs_uri), "x", {"weights": data})
    spoiled = iter(["pass", "pass", "flipped"])
    proxy.plan = lambda method, path: next(spoiled, "pass") if "alt=media" in path else "pass"
    assert artifact.path("weights").read_bytes() == data
    assert next(spoiled, None) is None


def test_a_busy_server_is_given_the_time_it_asks_for(proxy: FaultProxy, gs_uri: str) -> None:
    answers = iter(["429"])
    proxy.plan = lambda method, path: next(answers, "pass")
    proxy.retry_after = "1"
    began = time.monotonic()
    assert open_backend(gs_uri).create("refs/a", b"1")
    assert time.monotonic() - began >= 1.0
    assert len(proxy.requests) == 2


def test_what_cannot_succeed_is_not_tried_again(proxy: FaultProxy, gs_uri: str) -> None:
    proxy.forbid = "no"
    with pytest.raises(ValueError, match="refuses access"):
        open_backend(gs_uri).create("refs/a", b"1")
    assert len(proxy.requests) == 1


def test_waits_grow_and_differ() -> None:
    waits: list[float] = []
    with mock.patch("aquarat_core.artifacts.retry.time.sleep", waits.append), pytest.raises(ConnectionError):
        Retry(first=1.0, longest=8.0, deadline=0.0).call(_fail)
    assert waits == [], "the first wait would already end after the deadline"
    clock = iter(range(0, 1000))
    with (
        mock.patch("aquarat_core.artifacts.retry.time.sleep", waits.append),
        mock.patch("aquarat_core.artifacts.retry.time.monotonic", lambda: float(next(clock))),
        pytest.raises(ConnectionError),
    ):
        Retry(first=1.0, longest=8.0, deadline=60.0).call(_fail)
    assert len(waits) > 40 and len(set(waits)) == len(waits)
    assert all(0 <= wait <= min(8.0, 2.0**n) for n, wait in enumerate(waits))
    assert max(waits) > 4


def _fail() -> None:
    raise ConnectionError("no")


def test_files_of_one_artifact_are_sent_beside_each_other(proxy: FaultProxy, gs_uri: str, publish: Publish) -> None:
    """Each upload waits in the proxy until another is there: one after the other they would never end."""
    both = threading.Barrier(2, timeout=limit(10))

    def plan(method: str, path: str) -> str:
        if "uploadType=media" in path:
            both.wait()
        return "pass"

    proxy.plan = plan
    publish(ArtifactStore.open(gs_uri), "x", {"a": b"1", "b": b"2"})
