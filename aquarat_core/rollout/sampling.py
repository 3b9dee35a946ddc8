"""From logits to the next token: temperature sampling by inverse transform, or the most likely token.

One uniform random number per row determines its token. It is located in the cumulative distribution in two levels,
first among sums over blocks of the vocabulary and then within one block: a full cumulative sum over the vocabulary
costs more than the logits themselves.

Shapes: B rows, V vocabulary, N blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aquarat_core.errors import UsageError

BLOCK = 64
"""Tokens in one block of the vocabulary."""
MAX_EXPONENT = 60.0
"""Up to this bound, the maximum need not be subtracted from logits: the sum of their exponentials fits in float32."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-5, 1e3
"""Range of a temperature that is not 0. Below it, sampling is greedy in all but name, and with much smaller numbers the
quotients leave float32's range; above it, all tokens are almost equally likely."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. RL uses only the temperature: with a truncated distribution, sampling and training would
    differ, and the gradient would be biased."""

    temperature: float = 1.0
    """0 selects the most likely token; else from `MIN_TEMPERATURE` to `MAX_TEMPERATURE`."""
    top_k: int | None = None
    """Sample only from the k most likely tokens."""
    top_p: float | None = None
    """Sample only from the most likely tokens that together reach this probability (Holtzman et al. 2019, arXiv
    1904.09751)."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError(f"temperature {self.temperature} is below 0: 0 is greedy, 1 samples from the model")
        # NaN passes no comparison.
        if self.temperature != 0 and not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise UsageError(
                f"temperature {self.temperature} must be 0 (greedy) or from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k {self.top_k} leaves no token to draw: it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p} must be above 0 and at most 1")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def cuts(self) -> bool:
        """Whether some tokens are excluded."""
        return self.top_k is not None or self.top_p is not None

    def is_bounded(self, bound: float) -> bool:
        """Whether logits up to `bound` can skip the subtraction of the maximum."""
        return bound / self.temperature <= MAX_EXPONENT


def sample(logits_BV: Tensor, how: Sampling, uniform_B: Tensor, bound: float = torch.inf) -> tuple[Tensor, Tensor]:
    """Next tokens [B] and their log-probabilities [B] under the distribution that they were drawn from; those of greedy
    tokens are at temperature 1. `uniform_B` are random numbers in [0, 1).

    No logit may exceed `bound`. If it is low enough, the maximum is not computed, and the logits are overwritten.
    """
    if how.is_greedy:
        largest_B, tokens_B = logits_BV.max(dim=1)
        return tokens_B, -(logits_BV - largest_B[:, None]).exp_().sum(dim=1).log_()
    if how.is_bounded(bound):
        weights_BV = _cut(_tempered(logits_BV, how), how).exp_()
    else:
        scaled_BV = _cut(logits_BV / how.temperature, how)
        weights_BV = (scaled_BV - scaled_BV.amax(dim=1, keepdim=True)).exp_()
    weights_BNK = _blocks(weights_BV)
    rows_B = torch.arange(len(uniform_B), device=uniform_B.device)
    return _drawn(weights_BNK.sum(dim=2), lambda block_B: weights_BNK[rows_B, block_B], uniform_B)


def sample_head(
    raw_BV: Tensor,
    logits: Callable[[Tensor], Tensor],
    how: Sampling,
    uniform_B: Tensor,
    vocab_size: int,
    bound: float,
    at_once: int,
) -> tuple[Tensor, Tensor]:
    """The same as `sample` of `logits(raw_BV)`, computed for `at_once` rows at a time, so that intermediate values
    stay in the CPU's cache. `logits` works elementwise, and drops all but `vocab_size` columns.

    `raw_BV` may be overwritten.
    """
    if len(raw_BV) <= at_once:
        return sample(logits(raw_BV), how, uniform_B, bound)
    if how.is_greedy or how.cuts or not how.is_bounded(bound):
        parts = zip(torch.split(raw_BV, at_once), torch.split(uniform_B, at_once), strict=True)
        drawn = [sample(logits(raw), how, uniform, bound) for raw, uniform in parts]
        return torch.cat([tokens for tokens, _ in drawn]), torch.cat([logp for _, logp in drawn])

    def weights(raw: Tensor) -> Tensor:
        own = raw.clone() if raw.dtype == torch.float32 else raw  # float32 logits are modified in place
        return _tempered(logits(own), how).exp_()

    def inside(block_B: Tensor) -> Tensor:
        """Recompute the weights of one block: that is cheaper than storing those of all."""
        columns_BK = block_B[:, None] * BLOCK + torch.arange(BLOCK, device=block_B.device)
        found_BK = weights(raw_BV.gather(1, columns_BK.clamp(max=raw_BV.size(1) - 1)))
        return _blocks(found_BK)[:, 0].masked_fill(columns_BK >= vocab_size, 0.0)

    sums_BN = torch.cat([_blocks(weights(raw)).sum(dim=2) for raw in torch.split(raw_BV, at_once)])
    return _drawn(sums_BN, inside, uniform_B)


def _drawn(sums_BN: Tensor, inside: Callable[[Tensor], Tensor], uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B] and log-probabilities [B] from the block sums; `inside` returns one block of weights per row."""
    totals_B1 = sums_BN.sum(dim=1, keepdim=True)
    # Scaled by the row's actual sum: after rounding, probabilities would not sum to exactly 1.
    goal_B1 = uniform_B[:, None] * totals_B1
    cumulative_BN = sums_BN.cumsum(dim=1)
    block_B1 = _find(cumulative_BN, goal_B1)
    before_B1 = F.pad(cumulative_BN, (1, 0)).gather(1, block_B1)
    inside_BK = inside(block_B1[:, 0])
    within_B1 = _find(inside_BK.cumsum(dim=1), goal_B1 - before_B1)
    tokens_B1 = torch.add(within_B1, block_B1, alpha=BLOCK)
    return tokens_B1[:, 0], inside_BK.gather(1, within_B1).div_(totals_B1).log_()[:, 0]


def _tempered(logits_BV: Tensor, how: Sampling) -> Tensor:
    return logits_BV if how.temperature == 1 else logits_BV.mul_(1 / how.temperature)


def _blocks(weights_BV: Tensor) -> Tensor:
    """The weights as [B, N, BLOCK], padded with zeros."""
    missing = -weights_BV.size(1) % BLOCK
    padded = F.pad(weights_BV, (0, missing)) if missing else weights_BV
    return padded.view(len(padded), -1, BLOCK)


def _find(cumulative_BK: Tensor, goal_B1: Tensor) -> Tensor:
    """Index [B, 1] of the first cumulative sum that exceeds the goal.

    Rounding can move a goal to or beyond the last sum; the result is then the last weight above zero.
    """
    goal_B1 = torch.minimum(goal_B1, torch.nextafter(cumulative_BK[:, -1:], goal_B1.new_zeros(())))
    return (cumulative_BK <= goal_B1).sum(dim=1, keepdim=True)


def _cut(scaled_BV: Tensor, how: Sampling) -> Tensor:
    """Logits with -inf for the tokens that top-k and top-p exclude; ties with the last kept token are kept."""
    if how.top_k is not None and how.top_k < scaled_BV.size(1):
        smallest = scaled_BV.topk(how.top_k, dim=1).values[:, -1:]
        scaled_BV = scaled_BV.masked_fill(scaled_BV < smallest, -torch.inf)
    if how.top_p is not None and how.top_p < 1:
        ordered = scaled_BV.sort(dim=1, descending=True).values
        p = torch.softmax(ordered, dim=1)
        # A token is kept if those before it sum to less than top_p. The first one always is, even if top_p is so
        # small that it is 0 in float32.
        kept = (p.cumsum(dim=1) - p < how.top_p).sum(dim=1, keepdim=True).clamp(min=1)
        scaled_BV = scaled_BV.masked_fill(scaled_BV < ordered.gather(1, kept - 1), -torch.inf)
    return scaled_BV
