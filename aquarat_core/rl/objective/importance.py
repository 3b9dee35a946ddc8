"""Truncated importance weights for a sampler whose numbers differ from the trainer's (Yao et al. 2025,
fengyao.notion.site/off-policy-rl)."""

from __future__ import annotations

import torch
from torch import Tensor


def truncated_weights(trainer_logp_BN: Tensor, sampler_logp_BN: Tensor, cap: float) -> Tensor:
    """min(p_trainer / p_sampler, cap) [B, N], a constant: corrects for sampling from slightly different probabilities,
    while the variance from rare tokens stays bounded."""
    return torch.exp(trainer_logp_BN - sampler_logp_BN).clamp(max=cap).detach()
