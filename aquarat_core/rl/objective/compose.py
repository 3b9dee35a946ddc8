"""Composes the objective that a config selects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aquarat_core.config import ObjectiveConfig
from aquarat_core.rl.objective.cispo import cispo
from aquarat_core.rl.objective.clipping import ppo_clip
from aquarat_core.rl.objective.importance import truncated_weights
from aquarat_core.rl.objective.kl import kl_k1, kl_k3
from aquarat_core.rl.objective.ratios import sequence_ratios, token_ratios
from aquarat_core.rl.objective.reinforce import policy_loss


@dataclass(frozen=True, slots=True)
class LossInputs:
    """One micro-batch. All log-probabilities are those of the sampled tokens at the sampling temperature."""

    logp_BN: Tensor
    """Under the policy, with gradients."""
    advantages_B: Tensor
    mask_BN: Tensor
    """1 at the completion tokens that the policy sampled."""
    n_tokens: float
    """Number of tokens that the policy sampled in the whole step, over all ranks and micro-batches."""
    sampler_logp_BN: Tensor
    old_logp_BN: Tensor | None = None
    """Under the policy before this batch's first update; None at the first update, where it equals `logp_BN`."""
    reference_logp_BN: Tensor | None = None
    """Under the frozen reference, if the objective has a KL term."""


@dataclass(frozen=True, slots=True)
class LossOutputs:
    """The loss to differentiate, and sums over tokens: the clipped ones, and the divergence from a teacher."""

    loss: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    truncated: Tensor
    teacher_kl: Tensor | None = None


def objective(x: LossInputs, config: ObjectiveConfig) -> LossOutputs:
    """The loss of one micro-batch; the losses of all micro-batches and ranks add up to the step's loss."""
    mask, none = x.mask_BN, torch.zeros((), device=x.mask_BN.device)
    advantages_BN = x.advantages_B[:, None].expand_as(x.logp_BN)
    current = x.logp_BN.detach()
    if config.kl == "k1":
        assert x.reference_logp_BN is not None, "a KL term needs the reference's log-probabilities"
        advantages_BN = advantages_BN - config.kl_weight * kl_k1(current, x.reference_logp_BN)
    truncated = none
    if config.truncate_importance is not None:
        drawn = current if x.old_logp_BN is None else x.old_logp_BN
        weights_BN = truncated_weights(drawn, x.sampler_logp_BN, config.truncate_importance)
        truncated = ((weights_BN >= config.truncate_importance) * mask).sum()
        advantages_BN = advantages_BN * weights_BN
    if x.old_logp_BN is None:
        loss, low, high = policy_loss(x.logp_BN, advantages_BN, mask, x.n_tokens), none, none
    else:
        if config.ratio == "token":
            ratios_BN = token_ratios(x.logp_BN, x.old_logp_BN)
        else:
            ratios_BN = sequence_ratios(x.logp_BN, x.old_logp_BN, mask)
        if config.clip == "ppo":
            clipped = ppo_clip(ratios_BN, advantages_BN, config.clip_low, config.clip_high, config.dual_clip)
        else:
            clipped = cispo(x.logp_BN, ratios_BN, advantages_BN, config.clip_low, config.clip_high)
        loss = -(clipped.surrogate_BN * mask).sum() / x.n_tokens
        low, high = (clipped.low_BN * mask).sum(), (clipped.high_BN * mask).sum()
    if config.kl == "k3":
        assert x.reference_logp_BN is not None, "a KL term needs the reference's log-probabilities"
        loss = loss + config.kl_weight * (kl_k3(x.logp_BN, x.reference_logp_BN) * mask).sum() / x.n_tokens
    return LossOutputs(loss, low, high, truncated)
