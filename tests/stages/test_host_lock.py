"""What a GPU host gets is enough to run a stage, and holds no Dagster, no tests and no benchmarks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.conftest import Bench

LOCKED_ALONE = """
import re, runpy, sys
from importlib.metadata import packages_distributions
locked = set(open(sys.argv[1]).read().split()) | {"aquarat", "rustbpe-py"}
owners = packages_distributions()
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        names = {re.sub("[-_.]+", "-", owner).lower() for owner in owners.get(top, ())}
        if names and not names & locked:
            raise ModuleNotFoundError(f"{top} is not on a GPU host", name=top)
sys.meta_path.insert(0, Refuse())
sys.argv = ["run", sys.argv[2]]
runpy.run_module("aquarat_core.stages.run", run_name="__main__")
"""


def locked(root: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9._-]+)==", (root / "requirements-host.lock").read_text(), re.M))


def test_the_hosts_lock_is_a_part_of_the_whole_one(root: Path) -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9._-]+==[^ ]+", (root / name).read_text(), re.M))

    assert pins("requirements-host.lock") < pins("requirements.lock")
    assert {"torch", "dagster-pipes", "numpy", "safetensors"} <= locked(root)
    assert not locked(root) & {"dagster", "dagster-webserver", "dagster-graphql", "pytest", "gigatoken", "splintr-rs",
                               "gigabpe", "maturin", "rustbpe", "tiktoken"}  # fmt: skip


def test_the_lock_for_older_drivers_differs_in_torch_and_cuda_alone(root: Path) -> None:
    """So a host with such a driver computes with the same versions of everything else."""

    def others(name: str) -> set[str]:
        pins = re.findall(r"^[a-z0-9._-]+==[^ ]+", (root / name).read_text(), re.M)
        return {pin for pin in pins if not re.match(r"torch=|triton=|cuda-|nvidia-", pin)}

    assert others("requirements-host-cuda12.lock") == others("requirements-host.lock")


def test_a_stage_runs_with_what_the_hosts_lock_has(bench: Bench, root: Path, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text(" ".join(locked(root)))
    job = bench.store.job("run-host", "aqua_dataset", 1)
    config = {"n_train": 30, "n_validation": 10, "n_test": 10, "seed": 7}
    assert job.create_json("spec.json", bench.spec("aqua_dataset", config).model_dump(mode="json"))
    done = subprocess.run(
        [sys.executable, "-c", LOCKED_ALONE, str(names), f"{job.uri}/spec.json"],
        env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert job.read_json("result.json")["ok"]


@pytest.mark.slow
def test_torchrun_and_the_training_stages_import_with_what_the_hosts_lock_has(root: Path, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text(" ".join(locked(root)))
    modules = "aquarat_core.torchrun, aquarat_core.stages.base_checkpoint, aquarat_core.stages.rl_checkpoint, wandb"
    program = LOCKED_ALONE.partition("sys.argv =")[0] + f"import {modules}, torch.distributed.run"
    done = subprocess.run(
        [sys.executable, "-c", program, str(names)], env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
