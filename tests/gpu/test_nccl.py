"""Two ranks over NCCL against one process, in training and RL; where there is one GPU they share it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.gpu.conftest import NEEDS_GPU
from tests.serving import free_port
from tests.training import two_ranks

pytestmark = [NEEDS_GPU, pytest.mark.timeout(300)]
SHARED_SINCE = (2, 30)
"""The first NCCL known to let ranks share a GPU, when told to; 2.28 does not."""


def run(folder: Path, ranks: int, root: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What rank 0 measured, and its weights."""
    folder.mkdir()
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": path, "NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_SOCKET_IFNAME": "lo"}
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    gpus = torch.cuda.device_count()
    command = [sys.executable, two_ranks.__file__, folder, "cuda"]
    said = [folder / f"{rank}.log" for rank in range(ranks)]
    started: list[subprocess.Popen] = []
    try:
        for rank, log in enumerate(said):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank % gpus)}
            with log.open("w") as stderr:
                started.append(subprocess.Popen(command, env=env | world | mine, stderr=stderr))
        ended = [process.wait(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert not any(ended), "\n".join(log.read_text() for log in said)
    return json.loads((folder / "measured.json").read_text()), dict(np.load(folder / "weights.npz"))


def test_two_ranks_over_nccl_do_what_one_does_alone(tmp_path: Path, root: Path) -> None:
    version = torch.cuda.nccl.version()
    if torch.cuda.device_count() < 2 and version < SHARED_SINCE:
        pytest.skip(f"one GPU, and NCCL {'.'.join(map(str, version))} lets no two ranks share it")
    one, alone = run(tmp_path / "one", 1, root)
    two, weights = run(tmp_path / "two", 2, root)
    assert two["sum"] == [3.0, 20.0] and two["shares"] == [[0, 2, 4, 6], [1, 3, 5]]
    assert [item["text"] for item in two["gathered"]] == ["", "üüüüü", "üüüüü"]
    for a, b in zip(one["first"]["steps"], two["first"]["steps"], strict=True):
        assert b == pytest.approx(a, abs=1e-4, rel=1e-4)
    for a, b in zip(one["rl"], two["rl"], strict=True):
        assert b == pytest.approx(a, abs=1e-3, rel=1e-2)
    for name in weights:
        np.testing.assert_allclose(weights[name], alone[name], atol=1e-3)
    for measured in (one, two):  # and does it again to the bit, on every rank
        assert measured["first"] == measured["second"]
        assert len({tuple(hashes) for hashes in measured["hashes"]}) == 1
        first, second, _ = measured["hashes"][0]
        assert first == second
    assert two["stopped"] == ["stopped by SIGTERM after step 4; its state is saved: start it again to continue"] * 2
