"""Sampled tokens against the distribution that they are drawn from."""

from __future__ import annotations

import math

import pytest
import torch

from aquarat_core.errors import UsageError
from aquarat_core.rollout.random import row_key, uniform
from aquarat_core.rollout.sampling import MAX_TEMPERATURE, MIN_TEMPERATURE, Sampling, sample, sample_head

N = 40_000
LOGITS = torch.tensor([1.0, -0.5, 2.0, 0.0, -2.0, 1.5, -30.0])


@pytest.fixture(scope="module")
def keys() -> torch.Tensor:
    return torch.tensor([row_key("s", i) for i in range(N)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("position", [0, 9])
def test_samples_follow_the_softmax(keys: torch.Tensor, temperature: float, position: int) -> None:
    tokens, logp = sample(LOGITS.expand(N, -1), Sampling(temperature), uniform(keys, position))
    p = torch.softmax(LOGITS.double() / temperature, dim=0)
    expected, counts = p[:6] * N, torch.bincount(tokens, minlength=7)
    assert counts[6] == 0  # e^-32
    assert float(((counts[:6] - expected) ** 2 / expected).sum()) < 30.9  # chi-square of 5 at p = 1e-5
    torch.testing.assert_close(logp, p.log()[tokens].float())


def test_temperature_zero_takes_the_most_likely_and_says_how_likely_it_is(keys: torch.Tensor) -> None:
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    tokens, logp = sample(logits, Sampling(0.0), uniform(keys[:50], 3))
    assert torch.equal(tokens, logits.argmax(dim=1))
    torch.testing.assert_close(logp, torch.log_softmax(logits, dim=1).amax(dim=1))


def test_a_token_without_probability_is_never_drawn(keys: torch.Tensor) -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    tokens, logp = sample(logits.expand(N, -1), Sampling(1.0), uniform(keys, 0))
    assert set(tokens.tolist()) == {1, 3}
    torch.testing.assert_close(logp.exp(), torch.full((N,), 0.5))


def test_the_same_keys_give_the_same_tokens_at_any_place_in_the_batch(keys: torch.Tensor) -> None:
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(1))
    together, _ = sample(logits, Sampling(1.0), uniform(keys[:200], 4))
    for row in (0, 57, 199):
        assert sample(logits[row : row + 1], Sampling(1.0), uniform(keys[row : row + 1], 4))[0] == together[row]
    assert not torch.equal(together, sample(logits, Sampling(1.0), uniform(keys[:200], 5))[0])


def test_the_ends_of_the_unit_interval_and_a_draw_on_a_border() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    tokens, _ = sample(logits.expand(3, -1), Sampling(1.0), torch.tensor([0.0, 0.5, 1 - 2**-24]))
    assert tokens.tolist() == [1, 3, 3]


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        (Sampling(1.0, top_k=2), {2, 5}),
        (Sampling(1.0, top_k=100), {0, 1, 2, 3, 4, 5}),
        (Sampling(1.0, top_p=0.5), {2, 5}),  # 0.459 alone is short of it
        (Sampling(1.0, top_p=0.45), {2}),
        (Sampling(1.0, top_p=1.0), {0, 1, 2, 3, 4, 5}),
        (Sampling(0.5, top_p=0.6), {2}),  # at half the temperature the most likely one has 0.62
        (Sampling(1.0, top_k=3, top_p=0.7), {2, 5}),  # of three: 0.51, 0.31, 0.19
    ],
)
def test_cut_distributions_are_renormalised(keys: torch.Tensor, how: Sampling, kept: set[int]) -> None:
    tokens, logp = sample(LOGITS.expand(N, -1), how, uniform(keys, 0))
    assert set(tokens.tolist()) == kept
    inside = torch.full((7,), -torch.inf).index_copy(0, torch.tensor(sorted(kept)), LOGITS[sorted(kept)])
    expected = torch.log_softmax(inside / how.temperature, dim=0)
    if len(kept) < 6:
        torch.testing.assert_close(logp, expected[tokens])
    counts = torch.bincount(tokens, minlength=7)
    assert (counts / N - expected.exp()).abs().max() < 0.015


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 65, 1000])
def test_the_draw_is_the_inverse_of_the_cumulative_distribution(vocabulary: int) -> None:
    logits = 3 * torch.randn(500, vocabulary, generator=torch.Generator().manual_seed(4))
    rows = torch.tensor([row_key("c", i) for i in range(500)])
    drawn = uniform(rows, torch.arange(500))
    tokens, _ = sample(logits, Sampling(1.0), drawn)
    cumulative = torch.softmax(logits.double(), dim=1).cumsum(dim=1)
    u = drawn.double()
    expected = torch.searchsorted(cumulative, u[:, None], right=True).squeeze(1).clamp(max=vocabulary - 1)
    on_border = (cumulative - u[:, None]).abs().min(dim=1).values < 1e-5
    assert on_border.sum() < 25
    assert torch.equal(tokens[~on_border], expected[~on_border])


@pytest.mark.parametrize("temperature", [math.nan, math.inf, -math.inf, 1e-300, 9e-6, 1e300, 1001.0])
def test_a_temperature_outside_the_sensible_range_is_refused(temperature: float) -> None:
    with pytest.raises(UsageError, match=r"temperature .* (must be 0 \(greedy\) or from 1e-05 to 1000|is below 0)"):
        Sampling(temperature)


@pytest.mark.parametrize("temperature", [MIN_TEMPERATURE, MAX_TEMPERATURE])
def test_the_ends_of_the_range_give_finite_log_probabilities(keys: torch.Tensor, temperature: float) -> None:
    logits = 1e4 * torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    tokens, logp = sample(logits, Sampling(temperature), uniform(keys[:50], 3))
    expected = torch.log_softmax(logits.double() / temperature, dim=1)[torch.arange(50), tokens].float()
    torch.testing.assert_close(logp, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": math.nan}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


@pytest.mark.parametrize("how", [Sampling(), Sampling(0.7), Sampling(0.0), Sampling(1.0, top_k=5), Sampling(0.05)])
@pytest.mark.parametrize("vocab_size", [40, 64, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drawing_from_a_heads_products_is_the_same_bit_for_bit(
    keys: torch.Tensor, how: Sampling, vocab_size: int, dtype: torch.dtype
) -> None:
    cap = 15.0
    raw = (torch.randn(70, 256, generator=torch.Generator().manual_seed(2)) * 20).to(dtype)

    def logits(x: torch.Tensor) -> torch.Tensor:
        return x[..., :vocab_size].float().div_(cap).tanh_().mul_(cap)

    drawn = uniform(keys[:70], torch.arange(70))
    expected = sample(logits(raw.clone()), how, drawn, cap)
    assert len(set(expected[0].tolist())) > 20 and int(expected[0].max()) < vocab_size
    for at_once in (1, 32, 70):
        found = sample_head(raw.clone(), logits, how, drawn, vocab_size, cap, at_once)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
