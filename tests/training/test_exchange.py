"""The exchange between real gloo ranks: the sums are those without buckets, weights equal everywhere, bytes counted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from aquarat_core.config import ModelConfig, OptimConfig, RLConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.optim.groups import parameter_groups
from aquarat_core.training.shards import MAX_PADDING, capacity, numel, padding, plan
from tests.model.test_transformer import MODERN
from tests.patience import limit
from tests.serving import free_port

SCRIPT = str(Path(__file__).with_name("exchange_ranks.py"))
APART = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""Runs a program in a network of its own, whose loopback interface counts nothing else's bytes."""


def torchrun(*options: str, folder: Path, ranks: int, root: Path, what: str = "measure") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aquarat_core.torchrun", "--nproc-per-node", str(ranks), *options]
    command += ["--log-dir", str(folder / "logs"), SCRIPT, str(folder), what]
    prefix = APART if os.geteuid() == 0 and shutil.which("unshare") and what == "measure" else []
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*prefix, *command], env=env, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module", params=[2, 3])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    process = torchrun(folder=folder, ranks=request.param, root=root)
    _, said = process.communicate(timeout=limit(240))
    assert process.returncode == 0, said
    return json.loads((folder / "measured.json").read_text()) | {"ranks": request.param}


@pytest.mark.slow
def test_gradients_are_those_of_a_sum_after_the_backward_pass(measured) -> None:
    """Bit for bit: on CPUs, owners add in the order of ranks."""
    found = measured["gradients"]
    assert found["buckets"] > 4 and found["at_once_buckets"] == 2
    for name in ("buckets", "at_once", "one_rank_without_rows", "nobody_with_rows", "eager"):
        assert found[f"{name}_equal"], name


@pytest.mark.slow
def test_buckets_are_sent_during_the_last_backward_pass(measured) -> None:
    """None in the first of two micro-batches; in the last one most before the pass comes to the first block."""
    found = measured["gradients"]
    in_first_pass, in_last_pass, after, _ = found["sent"]
    assert in_first_pass == 0 and found["buckets"] // 2 < in_last_pass < after == found["buckets"]


@pytest.mark.slow
def test_compiled_losses_send_buckets_too(measured) -> None:
    found = measured["gradients"]
    assert found["compiled_sent"][-1] == found["buckets"]
    assert found["compiled_difference"] < 1e-5


@pytest.mark.slow
def test_all_ranks_have_the_same_weights_in_both_types(measured) -> None:
    rounding, ranks = measured["rounding"], measured["ranks"]
    for when in ("during", "finished"):
        assert len(rounding[when]) == ranks and len(set(rounding[when])) == 1
    assert rounding["during"] != rounding["finished"]
    assert "blocks.0.attention.q.weight" in rounding["rounded"] and "embedding.weight" in rounding["rounded"]
    assert "smear_lambda" in rounding["never_rounded"]


@pytest.mark.slow
def test_rounded_weights_train_the_same_model_bit_for_bit(measured) -> None:
    """Products in bfloat16 round the weights anyway, and updates start from the float32 ones."""
    weights = measured["weights"]
    assert len(set(weights["float32"])) == 1
    assert weights["bfloat16"] == weights["float32"]


@pytest.mark.slow
def test_a_run_with_rounded_weights_resumes_bit_for_bit(measured) -> None:
    weights, ranks = measured["weights"], measured["ranks"]
    said = "stopped by SIGTERM after step 3; its state is saved: start it again to continue"
    assert weights["stopped"] == [said] * ranks
    assert weights["resumed"] == weights["bfloat16"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
def test_the_bytes_of_a_step_are_those_of_the_formula(measured) -> None:
    """Headers, acknowledgements and the sums of norms add a few percent."""
    sent = measured["traffic"]["messages"]
    for counted, expected in sent.values():
        assert expected <= counted < 1.08 * expected
    (_, whole), (_, halved) = sent.values()
    assert halved == pytest.approx(0.75 * whole, rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
def test_ranks_of_one_host_send_next_to_nothing(measured) -> None:
    for counted, by_messages in measured["traffic"]["shared"].values():
        assert counted < 0.02 * by_messages


@pytest.mark.slow
def test_shared_memory_gives_the_bits_of_messages(measured) -> None:
    """One rank that cannot share is enough for all to send messages."""
    found, ranks = measured["both_ways"], measured["ranks"]
    assert found["shares"] == [True] * ranks and found["mapped"] >= ranks
    assert found["open"] == [0] * ranks, "descriptors are closed once all have opened them"
    for dtype in ("torch.float32", "torch.bfloat16"):
        assert found[dtype]["shares_without"] == [False] * ranks
        assert len(set(found[dtype]["shared"])) == 1 and found[dtype]["shared"] == found[dtype]["sent"]


@pytest.mark.slow
def test_options_that_cannot_apply_are_refused_on_all_ranks(measured) -> None:
    told, ranks = measured["refusals"], measured["ranks"]
    assert told["one_host"] == ["nothing"] * ranks
    assert len(set(told["float32"])) == 1
    assert told["float32"][0].startswith("launch.gather_dtype 'bfloat16' would round weights")
    if ranks == 3:
        assert (
            told["unequal_hosts"]
            == [
                "launch.two_level needs the same number of ranks on every host, numbered host by host, but this job's "
                "hosts have 1 and 2: set launch.two_level to false"
            ]
            * ranks
        )


@pytest.mark.slow
def test_two_levels_on_two_hosts(tmp_path: Path, root: Path) -> None:
    """Sums have another order, and so other last bits; ranks and repetitions do not differ."""
    meeting = ["--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "levels"]
    meeting += ["--local-addr", "127.0.0.1"]
    hosts = [
        torchrun(*meeting, "--rdzv-conf", f"rank={k}", folder=tmp_path, ranks=2, root=root, what="two_level")
        for k in range(2)
    ]
    for host in hosts:
        _, said = host.communicate(timeout=limit(240))
        assert host.returncode == 0, said
    found = json.loads((tmp_path / "measured.json").read_text())
    assert found["groups"] == [2, 2] and found["buckets"] > 4
    assert 1 < found["sent"][1] < found["sent"][2] == found["buckets"]
    assert found["difference"] < 1e-6
    assert len(found["weights"]) == 4 and len(set(found["weights"])) == 1
    assert found["again"] == found["weights"]
    assert len(set(found["bfloat16"])) == 1


@pytest.mark.slow
def test_a_rank_that_fails_within_a_pass_ends_the_job(tmp_path: Path, root: Path) -> None:
    started = time.monotonic()
    process = torchrun(folder=tmp_path, ranks=2, root=root, what="fail")
    _, said = process.communicate(timeout=limit(120))
    assert process.returncode == 1
    assert "a failure in the middle of the backward pass" in said
    assert time.monotonic() - started < limit(100), "not when the others' patience ends"


def shapes(ranks: int, bucket_bytes: float, **options: Any) -> list:
    with torch.device("meta"):
        model = Transformer(ModelConfig(**{"depth": 8, "width_per_layer": 64} | options), 8_000)
    groups = parameter_groups(model, OptimConfig())
    buckets = plan(groups, ranks, bucket_bytes)
    whole = [numel(bucket[rank]) for bucket in buckets for rank in range(ranks)]
    assert sum(whole) == sum(p.numel() for p in model.parameters())
    return buckets


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_buckets_follow_the_backward_pass_and_waste_little(ranks: int) -> None:
    buckets = shapes(ranks, 4e6, **MODERN | {"width_per_layer": 64})
    assert len(buckets) > 2
    names = [[shard.name for share in bucket for shard in share] for bucket in buckets]
    assert "head.weight" in names[0] and "embedding.weight" in names[-2] and "residual_lambdas" in names[-1]
    layers = [{int(n.split(".")[1]) for n in of if n.startswith(("blocks.", "value_emb"))} for of in names[1:-1]]
    for later, earlier in pairwise(layers):
        assert min(later | {8}) >= max(earlier | {0})
    assert all(padding(bucket) <= MAX_PADDING for bucket in buckets[:-2])


def test_ranks_own_about_as_much_as_each_other() -> None:
    buckets = shapes(3, 4e6)
    owned = [sum(numel(bucket[rank]) for bucket in buckets) for rank in range(3)]
    assert max(owned) < 1.1 * min(owned)
    assert sum(map(capacity, buckets)) < 1.15 * sum(owned) / 3


def test_rl_refuses_to_round_the_weights_that_it_publishes() -> None:
    with pytest.raises(ValueError, match=r"launch\.gather_dtype"):
        RLConfig(launch={"gather_dtype": "bfloat16"})
