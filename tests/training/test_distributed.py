"""Two gloo ranks under torchrun against one process: the number of ranks is no part of the result."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aquarat_core.config import ConfigError, LaunchConfig
from aquarat_core.runtime import distributed
from aquarat_core.runtime.distributed import StartError, compute_dtype, distributed_world
from tests.factories import CPU, ONE
from tests.patience import limit
from tests.serving import free_port
from tests.training.two_ranks import Interrupted, measure, training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("one")
    measured = measure(ONE, folder)
    return measured, dict(np.load(folder / "weights.npz"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "aquarat_core.torchrun", "--nproc-per-node", "2"]
    torchrun += ["--log-dir", str(folder / "logs")]
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, str(Path(__file__).with_name("two_ranks.py")), str(folder)],
        env=env, capture_output=True, text=True, timeout=limit(240),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads((folder / "measured.json").read_text()) | {"folder": folder}
    return measured, dict(np.load(folder / "weights.npz"))


def test_collectives(two) -> None:
    measured, _ = two
    assert measured["sum"] == [3.0, 20.0]
    assert measured["shares"] == [[0, 2, 4, 6], [1, 3, 5]]
    assert measured["gathered"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "üüüüü"}, {"rank": 1, "text": "üüüüü"}]
    assert measured["nothing"] == []


def test_a_world_of_one_keeps_everything(one) -> None:
    measured, _ = one
    assert (measured["sum"], measured["shares"]) == ([1.0, 10.0], [list(range(7))])


def test_two_ranks_train_like_one(one, two) -> None:
    (alone, alone_weights), (together, weights) = one, two
    assert len(together["first"]["steps"]) == 8
    for a, b in zip(alone["first"]["steps"], together["first"]["steps"], strict=True):
        assert b == pytest.approx(a, abs=1e-5, rel=1e-5)
    assert together["first"]["summary"] == pytest.approx(alone["first"]["summary"], abs=1e-5, rel=1e-5)
    np.testing.assert_allclose(weights["training"], alone_weights["training"], atol=1e-3)
    losses = [row["train/loss"] for row in together["first"]["steps"]]
    assert losses[-1] < losses[0] - 0.05  # it did train
    assert [row["step"] for row in together["first"]["steps"] if "val/bpb" in row] == [4, 8]


def test_two_identical_runs_are_bitwise_equal(one, two) -> None:
    for measured, _ in (one, two):
        assert measured["first"] == measured["second"]
        for first, second, _ in measured["hashes"]:
            assert first == second


def test_ranks_end_with_the_same_weights(two) -> None:
    measured, _ = two
    assert len(measured["hashes"]) == 2 and measured["hashes"][0] == measured["hashes"][1]


def test_sigterm_in_the_middle_of_a_step_gives_it_up_on_all_ranks(one, two) -> None:
    """The state of the last completed step is saved, and the resumed run ends as the undisturbed one, bit for bit."""
    kept = "its state is saved: start it again to continue"
    for measured, _ in (one, two):
        ranks = measured["mid_step"]
        expected = [f"stopped by SIGTERM after step 5; {kept}", measured["hashes"][0][0]]
        assert ranks == [[*expected, *expected]] * len(ranks), "in the middle of its rows, and while it waits for them"


def test_sigterm_in_the_middle_of_a_rollout_gives_the_step_up_on_all_ranks(one, two) -> None:
    for measured, _ in (one, two):
        for plain, said, resumed in json.loads(json.dumps(measured["mid_rollout"])):
            assert said == "stopped by SIGTERM after step 2; its state is saved: start it again to continue"
            assert resumed == plain, "weights and metrics as if nobody had disturbed it"
    assert [row["step"] for row in two[0]["mid_rollout"][0][0][1]] == [0, 1, 2, 3, 4]


def test_what_two_ranks_saved_one_goes_on_with_and_back(one, two, tmp_path: Path) -> None:
    """SIGTERM to one of two ranks stops both after the same step; a lone process ends their run as its own."""
    alone, alone_weights = one
    together, _ = two
    said = "stopped by SIGTERM after step 4; its state is saved: start it again to continue"
    assert together["stopped"] == [said] * 2
    folder = together["folder"]
    commits = Interrupted(ONE, folder, None).work.checkpoints()
    assert [c.step for c in commits] == [4] and len(commits[0].files) == 4
    resumed, weights = training(ONE, folder, Interrupted(ONE, folder, None))
    assert [row["step"] for row in resumed["steps"]] == list(range(1, 9))
    for a, b in zip(alone["first"]["steps"], resumed["steps"], strict=True):
        assert b == pytest.approx(a, abs=1e-5, rel=1e-5)
    np.testing.assert_allclose(weights, alone_weights["training"], atol=1e-3)
    assert alone["stopped"] == together["stopped"][:1]


def test_shares_of_the_optimizer_are_silent_together(one, two) -> None:
    """Half of a table lies on a rank that sees no gradient of it: its rows move as they do on one rank."""
    (alone, _), (together, _) = one, two
    for measured in (alone, together):
        assert measured["silence"]["still"] and measured["silence"]["silent"] == 1
        assert measured["silence"]["moved"] == {"embedding.weight": 128, "head.weight": 0}
    np.testing.assert_allclose(together["silence"]["weights"], alone["silence"]["weights"], atol=1e-3)


def test_two_ranks_reinforce_like_one(one, two) -> None:
    (alone, alone_weights), (together, weights) = one, two
    for a, b in zip(alone["rl"], together["rl"], strict=True):
        # Muon computes in bfloat16: the last bit of a sum over ranks grows a little from step to step.
        assert b == pytest.approx(a, abs=1e-4, rel=1e-3)
        assert 0 < a["rl/mean_reward"] < 1 and a["rl/grad_norm"] > 1e-3
        assert a["rl/given_tokens_mean"] == b["rl/given_tokens_mean"] > 0.1, "the calculator has answered"
    assert sum(step["rl/refilled_groups"] for step in together["rl"]) > 0
    assert together["rl"][0]["rl/kl_sequence_mean"] == 0.0 < together["rl"][2]["rl/kl_sequence_mean"]
    np.testing.assert_allclose(weights["rl"], alone_weights["rl"], atol=1e-3)


def test_two_ranks_distill_like_one(one, two) -> None:
    (alone, _), (together, _) = one, two
    on_some = {"rl/kl_sequence_mean", "rl/kl_sequence_k1"}  # measured on one micro-batch, which ranks divide otherwise
    for a, b in zip(alone["distilled"], together["distilled"], strict=True):
        b = {name: x for name, x in b.items() if name not in on_some}
        assert b == pytest.approx({name: a[name] for name in a if name not in on_some}, abs=1e-4, rel=1e-3)
        assert a["rl/mean_reward"] == 0.0 and a["rl/grad_norm"] > 1e-3 and a["rl/teacher_kl"] > 0.01
    ranks = together["distilled_hashes"]
    assert len(ranks) == 2 and ranks[0] == ranks[1], "the policy and its average are the same on both"


def test_a_lone_process_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with distributed_world(LaunchConfig(device="cpu", dtype="float32")) as world:
        assert (world.rank, world.size, world.device, world.compute_dtype) == (0, 1, CPU, torch.float32)
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_the_users_mistake() -> None:
    with (
        pytest.raises(ConfigError, match="sees no GPU here: set it to 'auto' or 'cpu'"),
        distributed_world(LaunchConfig(device="cuda")),
    ):
        pass


def test_a_rank_that_finds_nobody_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    described = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in described.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "JOIN_TIMEOUT", timedelta(seconds=1))
    with (
        pytest.raises(StartError, match=rf"rank 1 of 2 could not join the others at 127\.0\.0\.1:{port} \(") as e,
        distributed_world(LaunchConfig(device="cpu")),
    ):
        pass
    assert "\n" not in str(e.value)


def test_a_port_that_is_taken_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        described = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for name, value in described.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(
                StartError, match=rf"rank 0 of 2 could not join the others at 127\.0\.0\.1:{port} \(.*address"
            ) as e,
            distributed_world(LaunchConfig(device="cpu")),
        ):
            pass
    assert "\n" not in str(e.value)


def test_the_compute_type_is_the_one_asked_for() -> None:
    assert compute_dtype(LaunchConfig(dtype="bfloat16"), CPU) == torch.bfloat16
    assert compute_dtype(LaunchConfig(dtype="float32"), CPU) == torch.float32
    assert compute_dtype(LaunchConfig(), CPU) in (torch.bfloat16, torch.float32)
