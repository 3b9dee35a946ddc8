"""PPO's clipped surrogate: no gradient if the policy has already moved as far as allowed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Clipped:
    """Surrogate [B, N] to be maximized, and where clipping removed its gradient, below and above."""

    surrogate_BN: Tensor
    low_BN: Tensor
    high_BN: Tensor


def ppo_clip(ratios_BN: Tensor, advantages_BN: Tensor, low: float, high: float, dual: float | None = None) -> Clipped:
    """min(r A, clip(r, 1 - low, 1 + high) A) (Schulman et al. 2017, arXiv 1707.06347).

    high > low is DAPO's clip-higher (Yu et al. 2025, arXiv 2503.14476). `dual` bounds the surrogate by dual x A for
    negative A, so that an exploding ratio cannot dominate (Ye et al. 2020, arXiv 1912.09729).
    """
    inside_BN = ratios_BN.clamp(1 - low, 1 + high)
    surrogate_BN = torch.minimum(ratios_BN * advantages_BN, inside_BN * advantages_BN)
    low_BN = (ratios_BN < 1 - low) & (advantages_BN < 0)
    high_BN = (ratios_BN > 1 + high) & (advantages_BN > 0)
    if dual is not None:
        negative_BN = advantages_BN < 0
        surrogate_BN = torch.where(negative_BN, torch.maximum(surrogate_BN, dual * advantages_BN), surrogate_BN)
        high_BN = high_BN | (negative_BN & (ratios_BN > dual))
    return Clipped(surrogate_BN, low_BN, high_BN)
