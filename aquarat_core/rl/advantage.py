"""Group-relative advantages without division by the group's deviation.

GRPO (Shao et al. 2024, arXiv 2402.03300) compares each sample with its group; dropping the division removes the bias
towards questions that are almost always or almost never solved (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783).
"""

from __future__ import annotations

from torch import Tensor


def centred(rewards_PG: Tensor) -> Tensor:
    """Advantages [P, G]: each reward less the mean of its prompt's group."""
    return rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
