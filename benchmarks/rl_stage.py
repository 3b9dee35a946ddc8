"""Runs the RL stage of a profile on the latest artifacts of a store, without publishing anything.

Under torchrun: `python -m aquarat_core.torchrun --nproc-per-node N -m benchmarks.rl_stage FOLDER`, where FOLDER holds
`order.json`; it leaves `summary.json` and the stage's output in FOLDER.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.config import load_profile
from aquarat_core.settings import REPO_ROOT, store_uri
from aquarat_core.stages import rl_checkpoint
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.command import torchrun
from aquarat_core.stages.registry import STAGES
from aquarat_core.stages.run import stage_context
from benchmarks.harness import BenchError

INPUTS = ("sft_checkpoint", "aqua_dataset")


def inputs() -> dict[str, Artifact]:
    """The latest artifacts that RL needs. Raises `BenchError` where there are none."""
    store = ArtifactStore.open(store_uri())
    found = {name: store.latest(name) for name in INPUTS}
    if missing := [name for name, artifact in found.items() if artifact is None]:
        raise BenchError(f"the store {store_uri()} has no {', '.join(missing)}: run ./run demo first, it makes them")
    return found


def train(folder: Path, **changes: Any) -> dict[str, Any]:
    """The summary of the profile's RL stage with `changes` to its config; its checkpoint is in `folder`/content."""
    config = load_profile(None, {"rl_checkpoint": changes}).section("rl_checkpoint")
    folder.mkdir(parents=True)
    parents = {name: artifact.as_parent().model_dump(mode="json") for name, artifact in inputs().items()}
    order = {"store": store_uri(), "config": config.model_dump(mode="json"), "inputs": parents}
    (folder / "order.json").write_text(json.dumps(order))
    program = ("-m", "benchmarks.rl_stage", str(folder))
    done = subprocess.run(
        torchrun(program, config.launch.nproc, str(folder / "logs")),
        cwd=REPO_ROOT,
        env=os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": str(config.launch.threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchError(f"the RL stage ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    return json.loads((folder / "summary.json").read_text())


def main(folder: Path) -> None:
    order = json.loads((folder / "order.json").read_text())
    store = ArtifactStore.open(order["store"])
    spec = StageSpec(
        stage="rl_checkpoint", store=order["store"], profile="bench", config=order["config"], inputs=order["inputs"],
        code=CodeVersion(version="0" * 64, commit=None, dirty=True), run_id="bench", step_key="rl_checkpoint",
    )  # fmt: skip
    rank = int(os.environ.get("RANK", "0"))
    summary = rl_checkpoint.run(stage_context(STAGES[spec.stage], spec, store, folder, rank))
    if rank == 0:
        (folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
