"""The policy-gradient loss, and the KL estimates that are measured but not in it."""

from __future__ import annotations

import torch
from torch import Tensor


def policy_loss(logp_BN: Tensor, advantages_B: Tensor, mask_BN: Tensor, n_tokens: Tensor | int) -> Tensor:
    """REINFORCE over a batch sampled from the policy itself (Williams 1992, doi 10.1007/BF00992696).

    Every token of a completion carries its completion's advantage; the sum is divided by `n_tokens`, the number of
    completion tokens of the whole step over all ranks and micro-batches, so that a token weighs the same wherever it
    is computed (DAPO, Yu et al. 2025, arXiv 2503.14476).
    """
    return -(advantages_B[:, None] * logp_BN * mask_BN).sum() / n_tokens


def kl_k3(logp_BN: Tensor, reference_logp_BN: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference) in nats from the policy's own samples: e^d - 1 - d with
    d = log q - log p; unbiased and never negative (Schulman 2020, joschu.net/blog/kl-approx.html)."""
    d = reference_logp_BN - logp_BN
    return torch.expm1(d) - d
