"""Group-relative advantages: by how much a sample's reward exceeds that of the other samples of its prompt.

GRPO (Shao et al. 2024, arXiv 2402.03300) divides by the group's standard deviation. Without the division, there is no
bias towards questions that are almost always or almost never solved (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783).
"""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-6
"""Added to the standard deviation, as in implementations of GRPO."""


def mean_baseline(rewards_PG: Tensor) -> Tensor:
    """Advantages [P, G]: each reward minus the mean of its prompt's group; exactly 0 if all rewards are equal."""
    # The mean of equal numbers can be off by rounding, and an advantage of 1e-8 would cost computation for nothing.
    same_P1 = (rewards_PG == rewards_PG[:, :1]).all(dim=1, keepdim=True)
    return (rewards_PG - rewards_PG.mean(dim=1, keepdim=True)).masked_fill(same_P1, 0.0)


def group_std(rewards_PG: Tensor) -> Tensor:
    """Advantages [P, G] in units of the group's standard deviation."""
    return mean_baseline(rewards_PG) / (rewards_PG.std(dim=1, keepdim=True) + EPSILON)
