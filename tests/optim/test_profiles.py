"""The profiles for GPUs are the scaling rules written out, and fit the memory of the GPUs they are for."""

from __future__ import annotations

import pytest

from aquarat_core.config import load_profile
from aquarat_core.model import accounting
from aquarat_core.optim import scaling
from aquarat_core.stages.base_checkpoint import with_horizon

GPU_BYTES = 80e9
STEPS = {"d8": 1_920, "d12": 2_520, "d20": 4_980, "d26": 10_510}


@pytest.mark.parametrize("name", STEPS)
def test_a_profile_follows_the_rules(name: str) -> None:
    reference, profile = load_profile("d12"), load_profile(name)
    base, V = profile.base_checkpoint, profile.tokenizer.vocab_size
    size = accounting.scaling_parameters(base.model, V)
    tokens, at_reference = (
        scaling.training_tokens(n) for n in (size, accounting.scaling_parameters(reference.base_checkpoint.model, V))
    )
    assert base.batch_tokens == scaling.batch_tokens(tokens, at_reference)
    assert base.optim.lr_scale == pytest.approx(scaling.lr_scale(base.batch_tokens), rel=1e-4)
    decay = scaling.weight_decay(base.batch_tokens, tokens, at_reference)
    assert base.optim.weight_decay == pytest.approx(decay, rel=1e-3)
    assert with_horizon(base, V).steps == pytest.approx(STEPS[name], rel=0.001)
    # 50 million tokens a shard, an assumption of the profile.
    assert profile.pretrain_text.first_shards * 50e6 > 1.05 * tokens


@pytest.mark.parametrize("name", STEPS)
def test_a_profile_fits_its_gpus(name: str) -> None:
    profile = load_profile(name)
    base = profile.base_checkpoint
    assert base.launch.nproc == 8 and base.model.dim == 64 * base.model.depth and base.model.head_size == 128
    needed = accounting.training_bytes(base.model, profile.tokenizer.vocab_size, base.micro_batch_rows, ranks=8)
    assert 0.02 * GPU_BYTES < needed < 0.85 * GPU_BYTES
