"""What a profile would take on GPUs, against sums by hand and against what torch would allocate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aquarat_core.config import ConfigError, ModelConfig, OptimConfig, load_profile
from aquarat_core.config.accounting import (
    EAGER_WIDTHS,
    kv_bytes_per_token,
    parameters,
    rl_parts,
    scaling_parameters,
    state_parts,
)
from aquarat_core.model.kv_cache import KVCache
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.stages.costs import Cost, cost_of
from aquarat_core.stages.forecast import D12_MATRICES, Forecast, Gpus, forecast
from aquarat_core.stages.registry import STAGES
from aquarat_core.training.dry_run import META, state_bytes
from aquarat_core.training.optimizer import ShardedOptimizer

GB = 1e9


def by_stage(profile: str, gpus: Gpus, **how: int) -> dict[str, Forecast]:
    return {one.stage: one for one in forecast(load_profile(profile), gpus, **how)}  # pyright: ignore[reportArgumentType]


def test_the_sampling_speed_belongs_to_d12() -> None:
    profile = load_profile("d12")
    assert scaling_parameters(profile.base_checkpoint.model, profile.tokenizer.vocab_size) == D12_MATRICES


def test_hours_and_dollars_of_pretraining_by_hand() -> None:
    found = by_stage("d12", Gpus("H100", price=2.99, utilization=0.4))["base_checkpoint"]
    # 2,520 steps of 524,288 tokens at 759,696,048 FLOPs each.
    assert found.steps == 2_520 and found.tokens == 2_520 * 524_288
    assert found.flops == pytest.approx(2_520 * 524_288 * 759_696_048)
    seconds = found.flops / (0.4 * 989e12 * 8)
    assert found.seconds == pytest.approx(seconds)
    assert found.dollars == pytest.approx(seconds / 3600 * 8 * 2.99)
    # 286,261,730 float32 weights; and two saves with a moment of each matrix and two of the others.
    matrices = 84_934_656 + 6 * 12 * 6
    assert found.disk == 4 * 286_261_730 + 2 * 4 * (286_261_730 + matrices + 2 * (286_261_730 - matrices))


def test_rl_and_evaluations_by_hand() -> None:
    found = by_stage("d12", Gpus("H100"))
    rl, config = found["rl_checkpoint"], load_profile("d12").rl_checkpoint
    samples, row = 600 * 64 * 16, 512 + 256
    assert rl.tokens == samples * row
    # Two rounds of replaced groups are sampled as well, and held-out questions before the first step and every 25.
    assert (config.eval_every, config.eval_questions, config.probe_questions) == (25, 1_000, 32)
    held_out = 25 * 1_000
    # The reference reads a micro-batch of each rank, and 198 steps are paid by probability.
    read = (600 * 32 * 8 + 198 * 3 * 64 * 16 + 26 * 32) * row + (held_out + 3 * 600 * 64) * 512
    assert (config.micro_batch_rows, round(0.33 * 600)) == (32, 198)
    assert rl.flops == pytest.approx((rl.tokens + read / 3) * 759_696_048)
    sampling = (3 * samples + held_out) * 256 / (98_000 * 8)
    assert rl.seconds == pytest.approx(rl.flops / (0.38 * 989e12 * 8) + sampling)
    assert rl.dollars is None, "nobody has named a price"
    assert found["tokenizer"].ranks == 0 and found["pretrain_text"].downloads > 0


def report(**fields: Any) -> Cost:
    changes = {"chat_datasets": {"source": "hub", "sources": [{"name": "identity"}, {"name": "drills"}, ARC]}}
    profile = load_profile("demo", {**changes, "eval_report": NOTHING_ELSE | fields})
    return cost_of("rl_eval_report", {name: STAGES[name].config(profile) for name in STAGES})


ARC = {"name": "arc", "n_test": 50}
NOTHING_ELSE: dict[str, Any] = {
    "limit": 100, "max_new_tokens": 10, "tasks": [], "forced_letter": False,
    "chat_core": None, "core": None, "interpret": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "sampled", "read"),
    [
        ({}, 0, 0),
        ({"tasks": [{"task": "arc", "protocol": "letters"}]}, 0, 50 * 512),
        ({"tasks": [{"task": "arc", "protocol": "letters", "limit": 20}]}, 0, 20 * 512),
        ({"tasks": [{"task": "arc", "protocol": "continuations"}]}, 0, 5 * 50 * 512),
        ({"tasks": [{"task": "arc", "protocol": "cued"}]}, 50 * 10, 50 * (2 * 512 + 10)),
        ({"tasks": [{"task": "arc", "protocol": "rotated"}]}, 5 * 50 * 10, 5 * 50 * 512),
        ({"forced_letter": True}, 0, 100 * (512 + 10)),
    ],
)
def test_what_evaluations_read_is_counted(fields: dict[str, Any], sampled: int, read: int) -> None:
    found = report(**fields)
    assert (found.sampled, found.read) == (100 * 10 + sampled, 100 * 512 + read) and not found.uncounted


def test_what_is_not_counted_is_named() -> None:
    found = report(core={}, interpret={"of": ["sft"]})
    assert found.uncounted == ("CORE",) and found.sampled == 1_000
    assert report(interpret={}).uncounted == ("the analysis of attention and layers",)


def test_rl_reads_the_reference_for_its_kl_and_the_policy_for_rewards_by_probability() -> None:
    def read(**fields: Any) -> int:
        rl = {"steps": 10, "prompts_per_step": 8, "group_size": 4, "micro_batch_rows": 4, "max_new_tokens": 10}
        profile = load_profile("demo", {"rl_checkpoint": rl | {"launch": {"nproc": 2}} | fields})
        return cost_of("rl_checkpoint", {name: STAGES[name].config(profile) for name in STAGES}).read

    plain, row = read(), 10 * 32 * (512 + 10)
    assert read(objective={"kl": "k3"}) - plain == row - 10 * 8 * (512 + 10)
    assert read(objective={"updates_per_batch": 2}) - plain == row
    assert read(reward={"kind": "forced_letter"}) - plain == row
    assert read(reward={"kind": "probability", "exact_after": 0.2}) - plain == row // 5
    assert read(distillation={"teacher": "policy"}) - plain == row


@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_the_state_of_a_rank_is_what_the_optimizer_allocates(ranks: int) -> None:
    """Against a model with values: weights, and the moments and buffers of the busiest of so many ranks."""
    config = ModelConfig(depth=3, sequence_len=32, value_embeddings=True, residual_lambdas=True)
    found = state_bytes(config, 300, ranks)
    assert found["weights"] == found["gradients"] == 4 * parameters(config, 300)
    cpu = torch.device("cpu")
    model = Transformer(config, 300)
    held = [
        sum(
            t.nbytes
            for kinds in ShardedOptimizer(model, OptimConfig(), 1, world).moments.values()
            for t in kinds.values()
        )
        for world in (World(rank, ranks, cpu, torch.float32) for rank in range(ranks))
    ]
    assert found["optimizer"] == max(held)
    estimated = state_parts(config, 300, ranks)
    assert estimated["exchange"] <= found["exchange"] < 1.5 * estimated["exchange"] + 1
    # The estimate leaves out NorMuon's one number a row, and takes the ranks' shares as equal.
    assert estimated["optimizer"] <= found["optimizer"] < 1.5 * estimated["optimizer"]


@pytest.mark.parametrize("name", ["d12", "d20", "d26"])
def test_the_activations_of_the_update_are_what_torch_saves(name: str) -> None:
    """Without attention's probabilities: on tensors without values torch uses the kernel that saves them."""
    profile = load_profile(name)
    model = _meta(profile.base_checkpoint.model, profile.tokenizer.vocab_size)
    B, T = 2, 512
    saved: dict[int, torch.Tensor] = {}
    matrices = {tuple(p.shape) for p in model.parameters()}

    def keep(x: torch.Tensor) -> torch.Tensor:
        other = x.shape[-2:] == (T, T) or {tuple(x.shape), tuple(x.shape[::-1])} & matrices
        if not isinstance(x, torch.nn.Parameter) and not other:
            saved[x.untyped_storage()._cdata] = x  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.hidden(torch.zeros(B, T, dtype=torch.long, device=META))
    config = model.config
    widths = sum(x.untyped_storage().nbytes() for x in saved.values()) / (2 * B * T * config.dim * config.depth)
    assert 0.9 * EAGER_WIDTHS < widths <= EAGER_WIDTHS


def test_the_rollout_cache_is_the_one_that_the_sampler_allocates() -> None:
    profile = load_profile("d12")
    model, rl = profile.base_checkpoint.model, profile.rl_checkpoint
    rows = rl.prompts_per_step * rl.group_size // 8
    assert rows <= rl.rollout_rows
    cache = KVCache(model, rl.prompts_per_step // 8, 512, rl.group_size, rows, rl.max_new_tokens, torch.bfloat16, META)
    held = [cache.prompt_k_LPKDT, cache.prompt_v_LPKTD, cache.row_k_LNRKSD, cache.row_v_LNRKSD]
    found = rl_parts(model, profile.tokenizer.vocab_size, rl)["rollout_cache"]
    assert found == sum(x.nbytes for x in held) == kv_bytes_per_token(model) * (rows * 256 + 8 * 512)


def test_a_stage_that_does_not_fit_is_refused_with_the_nearest_way_out() -> None:
    small = by_stage("d20", Gpus("A100-SXM4-40GB"))
    problem = small["base_checkpoint"].problem
    assert problem is not None and "more than 80% of the 40 GB" in problem
    assert "set its micro_batch_rows to 8, which needs" in problem
    assert small["sft_checkpoint"].problem is None
    tiny = by_stage("d26", Gpus("L4"))["base_checkpoint"].problem
    assert tiny is not None and tiny.endswith("take more GPUs, GPUs with more memory, or a smaller depth")
    assert all(one.problem is None for one in by_stage("d26", Gpus("H100")).values())


def test_other_numbers_of_gpus() -> None:
    four = by_stage("d12", Gpus("H100"), ranks=4)["base_checkpoint"]
    eight = by_stage("d12", Gpus("H100"))["base_checkpoint"]
    assert (four.ranks, four.flops) == (4, eight.flops) and four.seconds == pytest.approx(2 * eight.seconds)
    assert four.memory["optimizer"] > eight.memory["optimizer"]
    three = by_stage("d12", Gpus("H100"), ranks=3)["base_checkpoint"]
    assert (three.ranks, three.flops) == (3, eight.flops), "a batch need not divide by them"
    assert three.seconds == pytest.approx(8 / 3 * eight.seconds, rel=0.01)
    with pytest.raises(ConfigError, match="the peak of a GPU named 'abacus' is not known"):
        by_stage("d12", Gpus("abacus"))


def test_a_profile_without_gpus_needs_none() -> None:
    found = by_stage("demo", Gpus("H100", price=2.0))
    assert {one.ranks for one in found.values()} == {0} and all(one.dollars is None for one in found.values())


def _meta(config: ModelConfig, vocab_size: int) -> Transformer:
    with META:
        return Transformer(config, vocab_size, torch.bfloat16)
