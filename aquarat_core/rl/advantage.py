"""Group-relative advantages: what a sample earned beyond the others of its prompt.

GRPO (Shao et al. 2024, arXiv 2402.03300) divides by the group's deviation; without the division the bias towards
questions that are almost always or almost never solved is gone (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783).
"""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-6
"""Added to the deviation, as GRPO's implementations do."""


def mean_baseline(rewards_PG: Tensor) -> Tensor:
    """Advantages [P, G]: each reward less the mean of its prompt's group; exactly 0 where all earned the same."""
    # The mean of equal numbers can be off by rounding, and an advantage of 1e-8 would be computed for nothing.
    same_P1 = (rewards_PG == rewards_PG[:, :1]).all(dim=1, keepdim=True)
    return (rewards_PG - rewards_PG.mean(dim=1, keepdim=True)).masked_fill(same_P1, 0.0)


def group_std(rewards_PG: Tensor) -> Tensor:
    """Advantages [P, G] in units of the group's standard deviation."""
    return mean_baseline(rewards_PG) / (rewards_PG.std(dim=1, keepdim=True) + EPSILON)
