"""Updates the policy on one batch of samples: micro-batches sorted by length, one or several optimizer steps.

The loss is the objective on rewards, or in self-distillation the divergence from a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from aquarat_core.config import RLConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.objective import LossInputs, LossOutputs, kl_k1, kl_k3, objective
from aquarat_core.rl.objective.distillation import distillation_loss, divergence
from aquarat_core.rl.scoring import (
    Sample,
    SampleBatch,
    collate,
    completion_distribution,
    completion_logp,
    of_sampled,
)
from aquarat_core.rl.teacher import Teacher
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.preemption import Stop, never
from aquarat_core.training.optimizer import ShardedOptimizer

N = TypeVar("N", Tensor, float)


class _TokenSums(NamedTuple, Generic[N]):
    """Sums over sampled tokens: tensors for one micro-batch, floats for a step on all ranks."""

    tokens: N
    difference: N
    """Absolute difference between the log-probabilities of trainer and sampler."""
    entropy: N
    kl_k3: N
    kl_k1: N
    kl_tokens: N
    """Number of tokens whose KL was measured."""
    clipped_low: N
    clipped_high: N
    truncated: N
    teacher_kl: N
    """Divergence from the teacher; 0 without one."""


class _MicroBatch(NamedTuple):
    """Samples, and the same with the teacher's prompts, if there is a teacher."""

    batch: SampleBatch
    lesson: SampleBatch | None


class _Forward(NamedTuple):
    """What the policy's forward pass on one micro-batch gives."""

    out: LossOutputs
    logp_BN: Tensor
    entropy_BN: Tensor


class PolicyOptimizer:
    """Updates a policy; with a KL term, keeps it close to its frozen reference."""

    def __init__(self, policy: Transformer, reference: Transformer, config: RLConfig, world: World) -> None:
        self.policy, self.reference, self.config, self.world = policy, reference, config, world
        self.sharded = ShardedOptimizer(policy, config.optim, config.steps * config.objective.updates_per_batch, world)
        self.teacher = Teacher(policy, config.distillation, config.temperature) if config.distills else None

    def update(self, step: int, samples: Sequence[Sample], n_tokens: float, stop: Stop = never) -> dict[str, float]:
        """Update the policy on this rank's `samples`; `n_tokens` and the metrics cover all ranks.

        Raises `Abandoned` on all ranks if `stop` is true on any before the first update; later updates are completed.

        Metrics of sampling (entropy, difference from the sampler, KL) come from the first update, where the policy is
        still the one that was sampled from.
        """
        batches = self._micro_batches(samples)
        several = self.config.objective.updates_per_batch > 1
        old = [self._logp(self.policy, x.batch) for x in batches] if several else [None] * len(batches)
        needs_reference = self.config.objective.kl != "none"
        reference = [self._logp(self.reference, x.batch) if needs_reference else None for x in batches]
        figures: dict[str, float] = {}
        for nth in range(self.config.objective.updates_per_batch):
            sums = torch.zeros(len(_TokenSums._fields), dtype=torch.float64, device=self.world.device)
            # After the first update, the state before the step cannot be restored.
            may_stop = stop if nth == 0 else never
            for n, (micro, old_logp, reference_logp) in enumerate(zip(batches, old, reference, strict=True)):
                if may_stop():
                    break
                batch = micro.batch
                out, logp, entropy = self._forward(micro, n_tokens, old_logp, reference_logp)
                if n + 1 == len(batches):
                    self.sharded.exchange.last_pass()
                out.loss.backward()  # pyright: ignore[reportUnknownMemberType]  # torch leaves its types out
                # Without a KL term, the reference needs a separate forward pass, so KL is measured on one micro-batch
                # per
                # step, a different one each time, because they are sorted by length.
                measured = reference_logp
                if measured is None and nth == 0 and n == step % len(batches):
                    measured = self._logp(self.reference, batch)
                sums += torch.stack(_measure(batch, logp.detach(), entropy, measured, out)).double()
            self.sharded.exchange.send_rest()
            found = _TokenSums(*self.world.totals(sums))
            index = step * self.config.objective.updates_per_batch + nth
            applied = {name.replace("train/", "rl/"): x for name, x in self.sharded.step(index, may_stop).items()}
            # 1 if no update of the step had a gradient.
            silent = float(applied["rl/grad_norm"] == 0 and figures.get("rl/silent", 1.0))
            figures |= applied | _clip_figures(found) | {"rl/silent": silent}
            if nth == 0:
                figures |= _sampling_figures(found)
            if self.teacher:
                self.teacher.follow(self.policy)
                figures["rl/teacher_kl"] = found.teacher_kl / max(found.tokens, 1)
        return figures

    def _forward(self, micro: _MicroBatch, n_tokens: float, old: Tensor | None, reference: Tensor | None) -> _Forward:
        logp_BNV = completion_distribution(self.policy, micro.batch, self.config.temperature)
        logp, entropy = of_sampled(logp_BNV, micro.batch)
        if self.teacher is None or micro.lesson is None:
            inputs = self._inputs(micro.batch, logp, n_tokens, old, reference)
            return _Forward(objective(inputs, self.config.objective), logp, entropy)
        found_BN = divergence(logp_BNV, self.teacher.targets(micro.lesson), self.config.distillation.divergence)
        mask, none = micro.batch.mask_BN, torch.zeros((), device=logp.device)
        loss, total = distillation_loss(found_BN, mask, n_tokens), (found_BN.detach() * mask).sum()
        return _Forward(LossOutputs(loss, none, none, none, total), logp, entropy)

    def _micro_batches(self, samples: Sequence[Sample]) -> list[_MicroBatch]:
        # Without a KL term or a teacher, a group with equal rewards has no gradient: it is counted in n_tokens but not
        # computed.
        every = self.teacher is not None or self.config.objective.kl != "none"
        telling = [s for s in samples if s.advantage or every]
        telling.sort(key=lambda s: len(s.prompt) + len(s.completion))
        size = self.config.micro_batch_rows
        return [self._micro_batch(telling[i : i + size]) for i in range(0, len(telling), size)]

    def _micro_batch(self, samples: Sequence[Sample]) -> _MicroBatch:
        lesson = None
        if self.teacher:
            lesson = collate([replace(s, prompt=s.teacher_prompt) for s in samples], self.world.device)
        return _MicroBatch(collate(samples, self.world.device), lesson)

    @torch.no_grad()
    def _logp(self, model: Transformer, batch: SampleBatch) -> Tensor:
        return completion_logp(model, batch, self.config.temperature)[0]

    @staticmethod
    def _inputs(
        batch: SampleBatch, logp: Tensor, n_tokens: float, old: Tensor | None, reference: Tensor | None
    ) -> LossInputs:
        return LossInputs(
            logp_BN=logp,
            advantages_B=batch.advantages_B,
            mask_BN=batch.mask_BN,
            n_tokens=n_tokens,
            sampler_logp_BN=batch.sampler_logp_BN,
            old_logp_BN=old,
            reference_logp_BN=reference,
        )


@torch.no_grad()
def _measure(
    batch: SampleBatch, logp: Tensor, entropy: Tensor, reference: Tensor | None, out: LossOutputs
) -> _TokenSums[Tensor]:
    mask, none = batch.mask_BN, torch.zeros((), device=logp.device)
    n = mask.sum()
    measured = reference is not None
    return _TokenSums(
        tokens=n,
        difference=((logp - batch.sampler_logp_BN).abs() * mask).sum(),
        entropy=(entropy * mask).sum(),
        kl_k3=(kl_k3(logp, reference) * mask).sum() if measured else none,
        kl_k1=(kl_k1(logp, reference) * mask).sum() if measured else none,
        kl_tokens=n if measured else none,
        clipped_low=out.clipped_low,
        clipped_high=out.clipped_high,
        truncated=out.truncated,
        teacher_kl=none if out.teacher_kl is None else out.teacher_kl,
    )


def _sampling_figures(sums: _TokenSums[float]) -> dict[str, float]:
    tokens, kl_tokens = max(sums.tokens, 1), max(sums.kl_tokens, 1)
    return {
        "rl/sampler_logp_difference": sums.difference / tokens,
        "rl/entropy_mean": sums.entropy / tokens,
        "rl/kl_sequence_mean": sums.kl_k3 / kl_tokens,
        "rl/kl_sequence_k1": sums.kl_k1 / kl_tokens,
    }


def _clip_figures(sums: _TokenSums[float]) -> dict[str, float]:
    tokens = max(sums.tokens, 1)
    return {
        "rl/clip_low_rate": sums.clipped_low / tokens,
        "rl/clip_high_rate": sums.clipped_high / tokens,
        "rl/truncated_weights": sums.truncated / tokens,
    }
