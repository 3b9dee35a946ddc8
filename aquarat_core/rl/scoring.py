"""Log-probabilities of sampled completions under a model, as the trainer sees them.

Shapes: B completions, T tokens of prompt and completion together, N completion tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aquarat_core.data.rows import pad
from aquarat_core.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion with its prompt and the records of the sampler and the grader."""

    prompt: Sequence[int]
    completion: Sequence[int]
    logprobs: Sequence[float]
    advantage: float
    forced: Sequence[int] = ()
    """Positions of completion tokens that came from a tool."""
    teacher_prompt: Sequence[int] = ()
    """The tokens that the teacher of self-distillation reads in place of `prompt`."""


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Samples as padded tensors. Completions are left-aligned in [B, N] regardless of their prompts' lengths."""

    ids_BT: Tensor
    positions_BN: Tensor
    """Index in `ids_BT` of the token before each completion token."""
    completion_BN: Tensor
    mask_BN: Tensor
    """float32; 1 at the completion tokens that the policy sampled, 0 at a tool's tokens and padding."""
    sampler_logp_BN: Tensor
    advantages_B: Tensor


def collate(samples: Sequence[Sample], device: torch.device) -> SampleBatch:
    """Pad `samples` to the longest of them."""
    ids = pad([[*s.prompt, *s.completion] for s in samples])
    positions = pad([range(len(s.prompt) - 1, len(s.prompt) + len(s.completion) - 1) for s in samples])
    completion = pad([s.completion for s in samples])
    logp = pad([s.logprobs for s in samples], torch.float32)
    mask = pad([[1.0] * len(s.completion) for s in samples], torch.float32)
    for row, s in enumerate(samples):
        mask[row, list(s.forced)] = 0.0
    advantages = torch.tensor([s.advantage for s in samples])
    return SampleBatch(*(t.to(device) for t in (ids, positions, completion, mask, logp, advantages)))


def completion_distribution(model: Transformer, batch: SampleBatch, temperature: float) -> Tensor:
    """Log-probabilities [B, N, V] of all tokens in the place of each completion token, at the sampling temperature.
    Logits are only computed at completion positions."""
    hidden_BTC = model.hidden(batch.ids_BT[:, :-1])
    rows = torch.arange(len(hidden_BTC), device=hidden_BTC.device)[:, None]
    logits_BNV = model.logits(hidden_BTC[rows, batch.positions_BN])
    return torch.log_softmax(logits_BNV / temperature, dim=-1)


def of_sampled(logp_BNV: Tensor, batch: SampleBatch) -> tuple[Tensor, Tensor]:
    """From a distribution, the log-probability [B, N] of each completion token, and the entropy [B, N] in nats of the
    distribution it was drawn from."""
    with torch.no_grad():
        entropy_BN = -(logp_BNV.exp() * logp_BNV).sum(dim=-1)
    return logp_BNV.gather(2, batch.completion_BN[..., None]).squeeze(2), entropy_BN


def completion_logp(model: Transformer, batch: SampleBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """`of_sampled` of the model's `completion_distribution`."""
    return of_sampled(completion_distribution(model, batch, temperature), batch)
