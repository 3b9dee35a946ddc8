"""A run goes on with any number of ranks, and its trace stays that of an undisturbed run within what the docs state.

The tolerances are those of docs/training.md, "A step does not depend on how it is divided".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aquarat_core.config import TrainConfig
from aquarat_core.data.rows import EpochShuffle
from tests.factories import ONE
from tests.patience import limit
from tests.training.any_ranks import ROWS, STEPS, measure

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("any_ranks.py")
LOSS, WEIGHTS = 1e-5, 1e-3


def start(root: Path, folder: Path, ranks: int, stop: int = 0, kill: int = 0) -> int:
    """Run the program under torchrun until it ends or is killed; its exit code."""
    command = [sys.executable, "-m", "aquarat_core.torchrun", "--nproc-per-node", str(ranks)]
    command += ["--log-dir", str(folder / "logs"), str(PROGRAM), str(folder), str(stop), str(kill)]
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit(240))
    assert (done.returncode == 0) == (not kill), done.stderr
    return done.returncode


def measured(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "measured.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process, from beginning to end."""
    return json.loads(json.dumps(measure(ONE, tmp_path_factory.mktemp("one"), 0, 0)))


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Any]:
    """Two ranks, then one, then two: training is killed twice, RL stopped twice."""
    folder = tmp_path_factory.mktemp("changing")
    start(root, folder, 2, stop=2, kill=5)
    commits = sorted(path.parent.name[:8] for path in folder.rglob("commit.json") if "base_checkpoint" in str(path))
    assert commits == ["00000002", "00000004"], "step 5 was not saved"
    start(root, folder, 1, stop=4, kill=9)
    start(root, folder, 2)
    return measured(folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Any]:
    """Three ranks, with seven rows and four prompts a step; and with two of each, where one rank has nothing to do."""
    folder = tmp_path_factory.mktemp("three")
    start(root, folder, 3)
    return measured(folder)


def assert_alike(found: dict[str, Any], expected: dict[str, Any], **tolerance: float) -> None:
    assert [row["step"] for row in found["steps"]] == [row["step"] for row in expected["steps"]]
    for a, b in zip(found["steps"], expected["steps"], strict=True):
        assert a == pytest.approx(b, **tolerance)
    np.testing.assert_allclose(found["weights"], expected["weights"], atol=WEIGHTS)


@pytest.mark.parametrize("way", ["changing", "three"])
def test_the_loss_trace_is_that_of_one_process(way: str, undisturbed, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(way)["train"]
    assert len(found["steps"]) == STEPS
    assert_alike(found, undisturbed["train"], abs=LOSS, rel=LOSS)
    losses = [row["train/loss"] for row in found["steps"]]
    assert losses[-1] < losses[0] - 0.05, "it did train"


@pytest.mark.parametrize("way", ["changing", "three"])
def test_rl_samples_the_same_answers_and_learns_the_same(way: str, undisturbed, request: pytest.FixtureRequest) -> None:
    found, expected = request.getfixturevalue(way)["rl"], undisturbed["rl"]
    assert_alike(found, expected, abs=1e-4, rel=1e-3)
    first = found["sampled"][0][0]
    assert first == (4 if way == "changing" else 0), "the last start made the last two steps"
    assert found["sampled"] == [group for group in expected["sampled"] if group[0] >= first]
    assert sum(row.get("rl/refilled_groups", 0) for row in found["steps"]) > 0


def test_no_row_is_lost_or_doubled(three) -> None:
    order = EpochShuffle(24, TrainConfig().seed)
    shares = three["asked"]
    assert len(shares) == 3
    for step in range(STEPS):
        asked = [share[step] for share in shares]
        assert sorted(map(len, asked)) == [2, 2, 3]
        assert sorted(row for rows in asked for row in rows) == sorted(order.rows(step, ROWS).tolist())


def test_a_rank_without_a_row_or_a_prompt_waits_for_the_others(undisturbed, three) -> None:
    for (train, rl), (one_train, one_rl) in [(three["few"], undisturbed["few"])]:
        assert_alike(train, one_train, abs=LOSS, rel=LOSS)
        assert_alike(rl, one_rl, abs=1e-4, rel=1e-3)
        assert rl["sampled"] == one_rl["sampled"]
