"""Estimates of KL(policy || reference) in nats from tokens that the policy sampled (Schulman 2020,
joschu.net/blog/kl-approx.html)."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_k1(logp_BN: Tensor, reference_logp_BN: Tensor) -> Tensor:
    """log p - log q: unbiased, of either sign. Its gradient as a loss is zero in expectation, so a penalty with it
    must be part of the reward."""
    return logp_BN - reference_logp_BN


def kl_k3(logp_BN: Tensor, reference_logp_BN: Tensor) -> Tensor:
    """e^d - 1 - d with d = log q - log p: unbiased and never negative."""
    d = reference_logp_BN - logp_BN
    return torch.expm1(d) - d
