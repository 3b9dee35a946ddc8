"""Whose fault it is that a stage failed: the runner's exit code, what it prints and what it leaves in result.json."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.stages.registry import STAGES
from aquarat_core.stages.run import main
from tests.failures import FIXED_BY_USER, KINDS, NAMES
from tests.patience import limit
from tests.stages.conftest import Bench

pytestmark = pytest.mark.slow


def torchrun(bench: Bench, root: Path, folder: Path, ranks: int, attempt: int, fails: str) -> tuple[Any, Any]:
    job = bench.store.job("run-1", "aqua_dataset", attempt)
    spec = bench.spec("aqua_dataset", {}).model_dump(mode="json") | {"attempt": attempt}
    assert job.create_json("spec.json", spec)
    command = ["-m", "aquarat_core.torchrun", "--nproc-per-node", str(ranks), "--tee", "3", "--log-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, *command, "-m", "tests.stages.failing", f"{job.uri}/spec.json"],
        env=os.environ | {"PYTHONPATH": str(root), "FAILS": fails, "OMP_NUM_THREADS": "1"}, cwd=root,
        capture_output=True, text=True, timeout=limit(120),
    )  # fmt: skip
    return done, job.read_json("result.json")


def own_lines(said: str) -> str:
    """What the ranks printed, without torchrun's own traceback."""
    return "\n".join(line for line in said.splitlines() if line.startswith("[default"))


@pytest.mark.parametrize(("attempt", "kind"), list(enumerate(KINDS, start=50)))
def test_only_a_users_error_is_shown_without_its_traceback(
    bench: Bench, root: Path, tmp_path: Path, attempt: int, kind: str
) -> None:
    done, result = torchrun(bench, root, tmp_path, 1, attempt, kind)
    said, user = own_lines(done.stdout + done.stderr), kind in FIXED_BY_USER
    assert KINDS[kind][2] in said
    assert ("Traceback" in said) is not user, said
    assert f"exitcode  : {2 if user else 1} " in done.stderr
    error = result["error"]
    assert not result["ok"] and (error["type"], error["user"]) == (NAMES[kind], user)
    assert KINDS[kind][2] in error["message"]


def test_a_users_error_replaces_what_another_rank_left_and_a_fault_does_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.store.job("run-1", "aqua_dataset", 60)
    job.create_json("spec.json", bench.spec("aqua_dataset", {}).model_dump(mode="json") | {"attempt": 60})
    monkeypatch.setitem(STAGES, "aqua_dataset", replace(STAGES["aqua_dataset"], entry="tests.stages.failing:run"))
    monkeypatch.setenv("FAILS", "shapes,child,json")
    left = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        code = main(f"{job.uri}/spec.json")
        left.append((code, job.read_json("result.json")["error"]["type"]))
    assert left == [(1, "ValueError"), (2, "DataError"), (1, "DataError")]


def test_a_fault_on_one_rank_is_not_the_users(bench: Bench, root: Path, tmp_path: Path) -> None:
    _, result = torchrun(bench, root, tmp_path, 2, 61, "wait,json")
    assert (result["error"]["type"], result["error"]["user"]) == ("JSONDecodeError", False)


def test_a_spec_that_is_none_is_said_in_one_line(bench: Bench, root: Path) -> None:
    job = bench.store.job("run-1", "aqua_dataset", 62)
    job.create_json("spec.json", {"stage": "aqua_dataset"})
    done = subprocess.run(
        [sys.executable, "-m", "aquarat_core.stages.run", f"{job.uri}/spec.json"],
        env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=limit(120),
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{job.uri}/spec.json cannot be used: store: Field required" in done.stderr
