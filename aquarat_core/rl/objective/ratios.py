"""Importance ratios: a sample's probability under the current policy relative to the policy that sampled it."""

from __future__ import annotations

import torch
from torch import Tensor


def token_ratios(logp_BN: Tensor, old_logp_BN: Tensor) -> Tensor:
    """Importance ratio [B, N] of each token (PPO, Schulman et al. 2017, arXiv 1707.06347)."""
    return torch.exp(logp_BN - old_logp_BN)


def sequence_ratios(logp_BN: Tensor, old_logp_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """The geometric mean [B, N] of the ratios of a completion's tokens, repeated for each token (GSPO, Zheng et al.
    2025, arXiv 2507.18071)."""
    lengths_B1 = mask_BN.sum(dim=1, keepdim=True).clamp(min=1)
    mean_B1 = ((logp_BN - old_logp_BN) * mask_BN).sum(dim=1, keepdim=True) / lengths_B1
    return torch.exp(mean_B1).expand_as(logp_BN)
