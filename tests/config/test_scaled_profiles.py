"""The profiles for GPUs: the published sizes of their runs, and that they fit the GPUs they are for."""

from __future__ import annotations

import pytest

from aquarat_core.config import Profile, load_profile, profile_names
from aquarat_core.config.accounting import rl_parts, scaling_parameters, training_bytes
from aquarat_core.config.data import LICENSES
from aquarat_core.config.scaling import horizon_of, training_tokens

GPU_BYTES = 80e9
# depth: tokens a step, steps (both as nanochat publishes them for its miniseries), rate factor, weight decay
PUBLISHED = {
    8: (262_144, 1_920, 0.7071, 0.5197),
    12: (524_288, 2_520, 1.0, 0.28),
    16: (524_288, 5_376, 1.0, 0.1313),
    20: (1_048_576, 4_980, 1.4142, 0.1002),
    26: (1_048_576, 10_510, 1.4142, 0.0475),
}
SCALED = [name for name in profile_names() if load_profile(name).depth]


def test_the_ladder_is_there() -> None:
    assert sorted(SCALED, key=lambda name: int(name[1:])) == ["d8", "d12", "d16", "d20", "d24", "d26"]


@pytest.mark.parametrize("depth", PUBLISHED)
def test_batch_rates_decay_and_horizon_are_the_published_ones(depth: int) -> None:
    batch, steps, lr, decay = PUBLISHED[depth]
    profile = load_profile(f"d{depth}")
    base, V = profile.base_checkpoint, profile.tokenizer.vocab_size
    assert base.batch_tokens == batch
    assert base.optim.lr_scale == pytest.approx(lr, rel=1e-3)
    assert base.optim.weight_decay == pytest.approx(decay, rel=2e-3)
    assert horizon_of(base, V) == pytest.approx(steps, rel=0.001)


@pytest.mark.parametrize("name", SCALED)
def test_a_profile_has_enough_text(name: str) -> None:
    profile = load_profile(name)
    tokens = training_tokens(scaling_parameters(profile.base_checkpoint.model, profile.tokenizer.vocab_size))
    assert 1.05 < len(profile.pretrain_text.shards) * 50e6 / tokens < 1.2


@pytest.mark.parametrize("name", SCALED)
def test_every_stage_fits_its_gpus(name: str) -> None:
    profile = load_profile(name)
    model, V = profile.base_checkpoint.model, profile.tokenizer.vocab_size
    assert model.dim == 64 * model.depth and model.head_size == 128
    for train in (profile.base_checkpoint, profile.mid_checkpoint, profile.sft_checkpoint):
        assert train.launch.nproc == 8
        needed = training_bytes(model, V, train.micro_batch_rows, ranks=8, keeps_logits=True)
        assert needed <= 0.8 * GPU_BYTES
        # The next size would not fit, or would not divide the rank's rows.
        more = training_bytes(model, V, 2 * train.micro_batch_rows, ranks=8, keeps_logits=True)
        rows = train.batch_tokens // (8 * model.sequence_len)
        assert more > 0.8 * GPU_BYTES or rows % (2 * train.micro_batch_rows)
    assert sum(rl_parts(model, V, profile.rl_checkpoint).values()) <= 0.8 * GPU_BYTES


@pytest.mark.parametrize("name", SCALED)
def test_a_profile_takes_all_questions_several_times_and_some_mathematics(name: str) -> None:
    profile = load_profile(name)
    sft = {entry.name: entry for entry in profile.sft_checkpoint.mixture}
    assert profile.aqua_dataset.n_train == 97_467
    assert sft["task"].limit is None and 2 <= sft["task"].permutations <= 4
    mid = {entry.name for entry in profile.mid_checkpoint.mixture}
    assert {"metamath", "numina", "gsm8k", "task", "finemath"} <= mid
    pages = next(source for source in profile.chat_datasets.sources if source.name == "finemath")
    assert pages.has_documents and pages.column == "text" and pages.train.hub in LICENSES
    rl = profile.rl_checkpoint
    assert rl.reward.kind == "probability" and rl.dynamic_sampling_rounds and rl.optim.warmdown < 0.5
    assert rl.optim.warmdown_shape == "cosine" and rl.reward.exact_after == 0.33
    assert rl.reward.format_bonus and rl.reward.format_bonus_until == 0.95
    assert _calls_are_answered(profile)


def _calls_are_answered(profile: Profile) -> bool:
    return profile.rl_checkpoint.calculator and profile.eval_report.calculator
