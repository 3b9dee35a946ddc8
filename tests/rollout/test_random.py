"""Counter-based draws: uniform, independent over keys and positions, and decided by both alone."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.rollout.random import row_key, uniform

N = 20_000


@pytest.fixture(scope="module")
def keys() -> torch.Tensor:
    return torch.tensor([row_key(1, "q", i) for i in range(N)])


@pytest.fixture(scope="module")
def draws(keys: torch.Tensor) -> torch.Tensor:
    """[64, N]: every key at positions 0 to 63."""
    return torch.stack([uniform(keys, position) for position in range(64)])


def splitmix(state: int) -> int:
    """SplitMix64 as published, on Python's integers."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.parametrize("position", [0, 1, 2, 63, 4095, 10**6])
def test_draws_are_splitmix64(position: int) -> None:
    keys = [0, 1, -1, 2**63 - 1, -(2**63), row_key("x")]
    expected = [(splitmix(k + position * 0x9E3779B97F4A7C15) >> 40) / 2**24 for k in keys]
    assert uniform(torch.tensor(keys), position).tolist() == expected


def test_the_published_first_output_of_seed_0() -> None:
    assert splitmix(0) == 0xE220A8397B1DCDAF


def test_draws_lie_in_the_half_open_unit_interval_and_are_uniform(draws: torch.Tensor) -> None:
    assert draws.min() >= 0.0 and draws.max() < 1.0
    x = draws.double().flatten()
    # 1.28 million draws: standard errors 0.00026 of the mean, 0.00007 of the variance; five of them.
    assert float(x.mean()) == pytest.approx(1 / 2, abs=0.0013)
    assert float(x.var()) == pytest.approx(1 / 12, abs=0.00035)
    counts = torch.histc(x, 100, 0, 1)
    expected = len(x) / 100
    assert float(((counts - expected) ** 2 / expected).sum()) < 170  # chi-square of 99: 170 is p < 1e-5


def test_neighbouring_keys_and_positions_are_uncorrelated(draws: torch.Tensor) -> None:
    centred = draws.double() - 0.5
    bound = 5 / (12 * centred.numel() ** 0.5)  # five standard errors of a mean of products of variance 1/144
    assert abs(float((centred[:, :-1] * centred[:, 1:]).mean())) < bound
    assert abs(float((centred[:-1] * centred[1:]).mean())) < bound
    consecutive = torch.stack([uniform(torch.arange(N), p) for p in range(8)]).double() - 0.5
    bound = 5 / (12 * consecutive.numel() ** 0.5)
    assert abs(float((consecutive[:, :-1] * consecutive[:, 1:]).mean())) < bound


def test_a_draw_is_decided_by_key_and_position(keys: torch.Tensor) -> None:
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(keys, 5)[shuffled], uniform(keys[shuffled], 5))
    assert torch.equal(uniform(keys[17:18], 5), uniform(keys, 5)[17:18])
    assert (uniform(keys, 5) == uniform(keys, 6)).sum() < 5


def test_keys_tell_their_parts_apart(keys: torch.Tensor) -> None:
    assert row_key(1, 2, "q") == row_key(1, 2, "q") == row_key("1", "2", "q")
    assert len({row_key(1, 23), row_key(12, 3), row_key(123), row_key(3, 12), row_key(1, 2, 3)}) == 5
    assert len(set(keys.tolist())) == N
    assert 0.48 < float((keys < 0).float().mean()) < 0.52
