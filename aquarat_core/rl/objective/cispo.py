"""CISPO: the importance weight is clipped, not the update (MiniMax-M1 2025, arXiv 2506.13585)."""

from __future__ import annotations

from torch import Tensor

from aquarat_core.rl.objective.clipping import Clipped


def cispo(logp_BN: Tensor, ratios_BN: Tensor, advantages_BN: Tensor, low: float, high: float) -> Clipped:
    """Surrogate [B, N] clip(r, 1 - low, 1 + high) A log p, where the clipped ratio is a constant: every token keeps a
    gradient, with a bounded weight."""
    weights_BN = ratios_BN.detach().clamp(1 - low, 1 + high)
    return Clipped(weights_BN * advantages_BN * logp_BN, ratios_BN < 1 - low, ratios_BN > 1 + high)
