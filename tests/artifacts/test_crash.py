"""Real processes: publishing at once, claiming at once, killed at any point, within bounded memory."""

from __future__ import annotations

import itertools
import random
import signal
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.artifacts.backends import open_backend

from .conftest import Publish, start, work, write_files
from .fault_sequences import assert_sound

pytestmark = pytest.mark.slow

FILES = {"model.safetensors": b"weights" * 10_000, "config.json": b"{}", "sub/tokenizer.json": b"[]"}
KILL_POINTS = {"file": 6, "gs": 3}


def test_processes_that_publish_at_once_all_succeed(shared_uri: str, tmp_path: Path) -> None:
    rounds = 3
    source = write_files(tmp_path / "source", FILES)
    work(*(start("publish_often", shared_uri, source, n, rounds) for n in range(3)))
    backend = open_backend(shared_uri)
    assert len(list(backend.keys("blobs/"))) == len(FILES)
    assert len(list(backend.keys("manifests/"))) == 3 * rounds
    assert list(backend.keys("tmp/")) == []
    latest = ArtifactStore.open(shared_uri).latest("base_checkpoint")
    assert latest.manifest.run_id in [f"{n}-{rounds - 1}" for n in range(3)]
    assert {f.path: latest.path(f.path).read_bytes() for f in latest.manifest.files} == FILES
    assert_sound(shared_uri)


def test_a_claim_has_exactly_one_winner(shared_uri: str) -> None:
    rounds = 20
    outputs = work(*(start("claim", shared_uri, n, rounds) for n in range(3)))
    won = [[int(line) for line in out.split()] for out in outputs]
    assert sorted(itertools.chain(*won)) == list(range(rounds))
    store = ArtifactStore.open(shared_uri)
    for n, numbers in enumerate(won):
        for number in numbers:
            assert store.job("run", "step", number).read_json("claim.json") == {"worker": str(n)}


def test_no_swap_is_lost(shared_uri: str) -> None:
    rounds = 50 if shared_uri.startswith("file") else 8
    backend = open_backend(shared_uri)
    backend.create("refs/counter", b"0")
    work(*(start("increment", shared_uri, rounds) for _ in range(3)))
    assert backend.read("refs/counter").data == str(3 * rounds).encode()


def test_a_writer_killed_anywhere_leaves_nothing_half_done(shared_uri: str, tmp_path: Path, publish: Publish) -> None:
    source = write_files(tmp_path / "source", FILES)
    publish(ArtifactStore.open(f"{shared_uri}/counted"), "base_checkpoint", {"model.safetensors": b"older"})
    operations = int(work(start("publish_and_die", f"{shared_uri}/counted", source, "r", 0))[0])
    points = random.Random(0).sample(range(1, operations + 1), KILL_POINTS[shared_uri.split(":")[0]])
    kills = 0
    for n, point in enumerate(sorted(points)):
        uri = f"{shared_uri}/{n}"
        before = publish(ArtifactStore.open(uri), "base_checkpoint", {"model.safetensors": b"older"})
        killed = start("publish_and_die", uri, source, "killed", point)
        killed.communicate("\n")
        # Files are sent several at once, so the number of operations varies a little and the last may never come.
        assert killed.returncode in (-signal.SIGKILL, 0)
        kills += killed.returncode != 0
        assert_sound(uri)
        latest = ArtifactStore.open(uri).latest("base_checkpoint")
        assert latest.sha256 == before.sha256 or latest.manifest.run_id == "killed"
        clean = publish(ArtifactStore.open(uri), "base_checkpoint", FILES, kind="checkpoint", run_id="clean")
        latest = ArtifactStore.open(uri).latest("base_checkpoint")
        assert latest.sha256 == clean.sha256
        assert {f.path: latest.path(f.path).read_bytes() for f in latest.manifest.files} == FILES
        assert_sound(uri)
    assert kills >= len(points) - 1


@pytest.mark.parametrize("leftover", ["tmp/1-x", "tmp/1-x.json"])
def test_leftovers_are_never_picked_up(tmp_path: Path, publish: Publish, leftover: str) -> None:
    root = tmp_path / "store"
    write_files(root, {leftover: b'{"half":'})
    store = ArtifactStore.open(f"file://{root}")
    art = publish(store, "x", {"a": b"1"})
    assert store.assets() == ["x"]
    assert list(open_backend(store.uri).keys("manifests/")) == [f"manifests/{art.sha256}.json"]
    assert sorted(p.name for p in (root / "tmp").iterdir()) == [Path(leftover).name]


def test_memory_stays_bounded(shared_uri: str, tmp_path: Path) -> None:
    size = 192
    source = tmp_path / "source"
    source.mkdir()
    with (source / "big").open("wb") as f:
        f.truncate(size * 2**20)
    assert int(work(start("memory", shared_uri, source, "big"))[0]) < 80
