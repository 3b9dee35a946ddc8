"""The scaling rules on the sizes they were published for."""

from __future__ import annotations

import pytest

from aquarat_core.config import scaling

PUBLISHED = {  # depth: millions of scaling parameters, billions of tokens, tokens a step, steps
    4: (11.5, 0.14, 262_144, 528),
    8: (41.9, 0.50, 262_144, 1_920),
    12: (110.1, 1.32, 524_288, 2_520),
    16: (234.9, 2.82, 524_288, 5_376),
    20: (435.2, 5.22, 1_048_576, 4_980),
    26: (918.4, 11.0, 1_048_576, 10_510),
}
REFERENCE = scaling.training_tokens(110_100_000)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_data_batch_and_steps(depth: int) -> None:
    millions, billions, batch, steps = PUBLISHED[depth]
    tokens = scaling.training_tokens(round(millions * 1e6))
    assert tokens / 1e9 == pytest.approx(billions, rel=0.02)
    assert scaling.batch_tokens(tokens, REFERENCE) == batch
    found = scaling.horizon(batch, round(millions * 1e6), 1.0, steps=1, tokens_per_parameter=12.0)
    assert found == pytest.approx(steps, rel=0.005)


def test_rates_and_decay() -> None:
    assert scaling.lr_scale(1 << 19) == 1.0 and scaling.lr_scale(1 << 17) == 0.5
    assert scaling.weight_decay(1 << 19, REFERENCE, REFERENCE) == pytest.approx(0.28)
    assert scaling.weight_decay(1 << 21, 4 * REFERENCE, REFERENCE) == pytest.approx(0.28 * 2 / 4)


def test_the_horizon_by_flops_comes_first() -> None:
    assert scaling.horizon(1000, 500, 6e6, steps=7) == 7
    assert scaling.horizon(1000, 500, 6e6, steps=7, tokens_per_parameter=20) == 10
    assert scaling.horizon(1000, 500, 6e6, steps=7, tokens_per_parameter=20, target_flops=3e11) == 50
