r"""On-policy distillation: at every token of its own samples, the policy moves towards a teacher's distribution.

The loss of a token is a divergence between the policy p and the teacher q over the next token, both at the sampling
temperature, after the same sampled tokens (GKD, Agarwal et al. 2024, arXiv 2306.13649). In self-distillation the
teacher has the policy's weights and also sees a worked solution (OPSD, Zhao et al. 2026, arXiv 2601.18734; SDFT,
Shenfeld et al. 2026, arXiv 2601.19897, with averaged weights; SDPO, Hübotter et al. 2026, arXiv 2601.20802). The
teacher is a constant, and so are the sampled tokens: the gradient of how the policy's choice of a token changes what
comes after it is left out, as in these papers.

Tokens are grouped into classes c: the teacher's k most likely tokens, one class each, and all others together. The
classes are fixed by the teacher, so that they do not change with the policy. With P and Q the probabilities of
classes,

    reverse: KL(P || Q) = sum over c of P_c (log P_c - log Q_c)
    forward: KL(Q || P) = sum over c of Q_c (log Q_c - log P_c)

neither of which exceeds the divergence over the whole vocabulary. For logits z of the policy at temperature t, and the
class c of token v, the gradients are

    reverse: d/dz_v = p_v (log P_c - log Q_c - KL(P || Q)) / t
    forward: d/dz_v = p_v (1 - Q_c / P_c) / t

which is (p_v - q_v) / t for a class of one token: cross-entropy with the teacher's probabilities as soft labels.

Shapes: B completions, N completion tokens, V vocabulary, K + 1 classes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """The teacher's distribution, without gradients."""

    logp: Tensor
    """Log-probabilities [B, N, K + 1] of the classes, the rest last; [B, N, V] for the whole vocabulary."""
    top_BNK: Tensor | None
    """Ids of its most likely tokens, each a class; None for the whole vocabulary."""


def targets(teacher_logp_BNV: Tensor, top_k: int | None) -> Targets:
    """The teacher's distribution over its `top_k` most likely tokens and the rest; null or a `top_k` of at least the
    vocabulary takes every token as a class."""
    teacher_logp_BNV = teacher_logp_BNV.detach()
    if top_k is None or top_k >= teacher_logp_BNV.size(-1):
        return Targets(teacher_logp_BNV, None)
    top_BNK = teacher_logp_BNV.topk(top_k, dim=-1).indices
    return Targets(classes(teacher_logp_BNV, top_BNK), top_BNK)


def classes(logp_BNV: Tensor, top_BNK: Tensor | None) -> Tensor:
    """Log-probabilities of the classes: of each of the tokens `top_BNK`, and of all others together."""
    if top_BNK is None:
        return logp_BNV
    # 1 minus the sum of the others would lose a small rest to rounding.
    rest_BN1 = logp_BNV.scatter(-1, top_BNK, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([logp_BNV.gather(-1, top_BNK), rest_BN1], dim=-1)


def divergence(logp_BNV: Tensor, teacher: Targets, kind: Literal["reverse", "forward"]) -> Tensor:
    """The divergence [B, N] in nats between the policy and the teacher at each token."""
    ours, theirs = classes(logp_BNV, teacher.top_BNK), teacher.logp
    if kind == "reverse":
        return (ours.exp() * (ours - theirs)).sum(dim=-1)
    return (theirs.exp() * (theirs - ours)).sum(dim=-1)


def distillation_loss(divergence_BN: Tensor, mask_BN: Tensor, n_tokens: Tensor | float) -> Tensor:
    """The sum over the tokens that the policy sampled, divided by their number `n_tokens` in the whole step, as in
    `policy_loss`."""
    return (divergence_BN * mask_BN).sum() / n_tokens
