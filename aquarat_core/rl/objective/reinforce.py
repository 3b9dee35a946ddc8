"""The policy gradient on fresh samples (REINFORCE, Williams 1992, doi 10.1007/BF00992696)."""

from __future__ import annotations

from torch import Tensor


def policy_loss(logp_BN: Tensor, advantages_BN: Tensor, mask_BN: Tensor, n_tokens: Tensor | float) -> Tensor:
    """Loss whose gradient is the policy gradient for samples drawn from the policy itself.

    The sum is divided by `n_tokens`, the number of completion tokens in the whole step over all ranks and
    micro-batches, so that a token has the same weight wherever it is computed (DAPO, Yu et al. 2025, arXiv 2503.14476).
    """
    return -(advantages_BN * logp_BN * mask_BN).sum() / n_tokens
