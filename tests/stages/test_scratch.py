"""Scratch space of stages that are killed: gone when the next one starts, and that of living ones is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aquarat_core.artifacts import StoreError
from aquarat_core.runtime.scratch import scratch_folder
from tests.patience import limit
from tests.stages.conftest import Bench
from tests.stages.test_run import AQUA, start

CROWD = """
import sys
from aquarat_core.runtime.scratch import scratch_folder
for k in range(60):
    with scratch_folder(sys.argv[1]) as folder:
        (folder / "mine").write_text(str(k))
        with scratch_folder("inner") as inner:
            assert list(inner.iterdir()) == []
        assert (folder / "mine").read_text() == str(k)
"""


def folders(named: Path) -> list[str]:
    scratch = named / "aquarat-scratch"
    return sorted(path.name.rpartition("-")[0] for path in scratch.iterdir() if path.is_dir())


def test_what_a_killed_stage_left_goes_with_the_next_and_a_living_ones_stays(
    bench: Bench, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUARAT_SCRATCH", str(tmp_path))
    with scratch_folder("living") as living:
        (living / "work").write_text("in progress")
        job = bench.store.job("run-1", "aqua_dataset", 90)
        job.create_json("spec.json", bench.spec("aqua_dataset", {**AQUA, "n_train": 1_000_000}).model_dump(mode="json"))
        victim = subprocess.Popen(
            [sys.executable, "-m", "aquarat_core.stages.run", f"{job.uri}/spec.json"],
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        deadline = time.monotonic() + limit(60)
        while not list(tmp_path.glob("aquarat-scratch/aqua_dataset-*/files/content")):
            assert victim.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        victim.kill()
        victim.wait()
        assert folders(tmp_path) == ["aqua_dataset", "living"]

        assert start(bench, AQUA, 91, root)[0].returncode == 0
        assert folders(tmp_path) == ["living"]
        assert (living / "work").read_text() == "in progress"
    assert folders(tmp_path) == []


def test_many_at_once_take_nothing_from_each_other(root: Path, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(root), "AQUARAT_SCRATCH": str(tmp_path)}
    crowd = [subprocess.Popen([sys.executable, "-c", CROWD, name], env=env) for name in "abc"]
    assert [process.wait(120) for process in crowd] == [0, 0, 0]
    assert folders(tmp_path) == []


def test_a_folder_whose_maker_was_killed_half_way_goes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUARAT_SCRATCH", str(tmp_path))
    (tmp_path / "aquarat-scratch/half-1").mkdir(parents=True)
    with scratch_folder("whole"):
        assert folders(tmp_path) == ["whole"]


def test_what_is_not_ours_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the folders lie torchrun's logs of a job, or whatever a user keeps on the disk that was named."""
    monkeypatch.setenv("AQUARAT_SCRATCH", str(tmp_path))
    logs = [tmp_path / "attempt_0/0/stdout.log", tmp_path / "aquarat-scratch/theirs/file"]
    for path in logs:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    for _ in range(2):
        with scratch_folder("a"):
            pass
    assert all(path.read_text() == "mine" for path in logs)


def test_it_lies_in_the_cache_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AQUARAT_SCRATCH", raising=False)
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    with scratch_folder("a") as folder:
        assert folder.is_relative_to(tmp_path / "cache/aquarat-scratch")
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    said = r"scratch directory .* cannot be used.* Set AQUARAT_SCRATCH"
    with pytest.raises(StoreError, match=said), scratch_folder("a"):
        pass
