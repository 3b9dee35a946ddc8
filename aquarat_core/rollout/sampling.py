"""From logits to the next token: temperature sampling by inverse transform, or the most likely token."""

from __future__ import annotations

import torch
from torch import Tensor

from aquarat_core.rollout.random import uniform


def sample(logits_BV: Tensor, temperature: float, keys_B: Tensor, position: int) -> tuple[Tensor, Tensor]:
    """Next tokens [B] and their log-probabilities [B] at this temperature; temperature 0 takes the most likely
    token and gives its log-probability at temperature 1."""
    logp_BV = torch.log_softmax(logits_BV / (temperature or 1.0), dim=-1)
    if temperature == 0:
        tokens = logp_BV.argmax(dim=-1)
    else:
        cumulative = logp_BV.exp().cumsum(dim=-1)
        # Scaled by the row's own sum, which rounding leaves a little off 1.
        threshold = uniform(keys_B, position)[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits_BV.size(1) - 1)
    return tokens, logp_BV.gather(1, tokens[:, None]).squeeze(1)
