"""Sampled tokens against the distribution that they are drawn from."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.rollout import sampling
from aquarat_core.rollout.random import row_key
from aquarat_core.rollout.sampling import sample

N = 40_000
LOGITS = torch.tensor([1.0, -0.5, 2.0, 0.0, -2.0, 1.5, -30.0])


@pytest.fixture(scope="module")
def keys() -> torch.Tensor:
    return torch.tensor([row_key("s", i) for i in range(N)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("position", [0, 9])
def test_samples_follow_the_softmax(keys: torch.Tensor, temperature: float, position: int) -> None:
    tokens, logp = sample(LOGITS.expand(N, -1), temperature, keys, position)
    p = torch.softmax(LOGITS.double() / temperature, dim=0)
    expected, counts = p[:6] * N, torch.bincount(tokens, minlength=7)
    assert counts[6] == 0  # e^-32
    assert float(((counts[:6] - expected) ** 2 / expected).sum()) < 30.9  # chi-square of 5 at p = 1e-5
    torch.testing.assert_close(logp, p.log()[tokens].float())


def test_temperature_zero_takes_the_most_likely_and_says_how_likely_it_is(keys: torch.Tensor) -> None:
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    tokens, logp = sample(logits, 0.0, keys[:50], 3)
    assert torch.equal(tokens, logits.argmax(dim=1))
    torch.testing.assert_close(logp, torch.log_softmax(logits, dim=1).amax(dim=1))


def test_a_token_without_probability_is_never_drawn(keys: torch.Tensor) -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    tokens, logp = sample(logits.expand(N, -1), 1.0, keys, 0)
    assert set(tokens.tolist()) == {1, 3}
    torch.testing.assert_close(logp.exp(), torch.full((N,), 0.5))


def test_the_same_keys_give_the_same_tokens_at_any_place_in_the_batch(keys: torch.Tensor) -> None:
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(1))
    together, _ = sample(logits, 1.0, keys[:200], 4)
    for row in (0, 57, 199):
        assert sample(logits[row : row + 1], 1.0, keys[row : row + 1], 4)[0] == together[row]
    assert not torch.equal(together, sample(logits, 1.0, keys[:200], 5)[0])


def test_the_ends_of_the_unit_interval_and_a_draw_on_a_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "uniform", lambda keys, position: torch.tensor([0.0, 0.5, 1 - 2**-24]))
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    tokens, _ = sample(logits.expand(3, -1), 1.0, torch.zeros(3, dtype=torch.long), 0)
    assert tokens.tolist() == [1, 3, 3]
