"""One optimizer step: gradients summed over ranks, clipped by their global norm, and applied under the schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor

from aquarat_core.config import OptimConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.optim import adamw, muon
from aquarat_core.optim.groups import parameter_groups
from aquarat_core.optim.schedule import lr_factor, momentum_at, weight_decay_factor
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.preemption import Abandoned, Stop, never
from aquarat_core.training.shards import ParamShard, Zero2, partition

MAX_SKIPPED = 10
"""Number of steps with non-finite gradients that a run survives."""


class ShardedOptimizer:
    """Owns this rank's share of the optimizer of a run of `steps` steps.

    The caller divides its losses by the number of target tokens of all ranks and micro-batches before the backward
    pass. Gradients are summed here, not averaged, so the result does not depend on how the batch was divided.

    A zero gradient changes nothing. Muon scales its momentum to a step of full length, so without a gradient, weights
    would continue in the direction of old steps. A parameter whose summed gradient is zero therefore keeps its weights
    and moments and is not decayed; a step without any gradient changes nothing, not even AdamW's count.
    """

    def __init__(self, model: Transformer, config: OptimConfig, steps: int, world: World) -> None:
        self.config, self.steps, self.world = config, steps, world
        self.parameters = [p for p in model.parameters() if p.numel()]
        self._zero = Zero2(partition(parameter_groups(model, config), world.size), world)
        self.moments = {(p.name, p.start): _fresh_moments(p) for p in self._zero.mine}
        self._slots = torch.tensor(self._zero.indices, device=world.device)
        self.applied = 0
        """Number of applied steps, which is AdamW's count."""
        self.skipped = 0
        self.silent = 0
        """Number of steps without a gradient."""

    def step(self, step: int, stop: Stop = never) -> dict[str, float]:
        """Reduce, clip, step and clear the gradients; returns the global gradient norm and the learning rate factor.

        A zero gradient changes nothing. A non-finite one skips the step; more than `MAX_SKIPPED` of them raise
        `FloatingPointError`. Reading the norms is the only point in a step where the host waits for a GPU: AdamW's
        count,
        and what every rank does next, depend on whether the update happens. Deciding that on the device would cost
        passes
        over all moments.

        Raises `Abandoned` on all ranks, with everything unchanged, if `stop` returns true on any: the norms include
        that.
        """
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = self._zero.gradients()
        norm_there, others = self._norms(grads, stop())
        norm, stopping, *lengths = read(torch.cat([norm_there[None], others]))
        if stopping:
            raise Abandoned(f"step {step} was abandoned")
        factor = lr_factor(step, self.steps, self.config)
        if norm == 0:
            self.silent += 1
        elif math.isfinite(norm):
            if self.config.grad_clip is not None and grads:
                scale = (self.config.grad_clip / (norm_there + 1e-6)).clamp(max=1.0)
                # torch has no public function for this.
                torch._foreach_mul_(grads, scale)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            self.applied += 1
            self._update(step, grads, factor, self._zero.moving(lengths))
            self._zero.all_gather_weights()
        else:
            self.skipped += 1
            if self.skipped > MAX_SKIPPED:
                raise FloatingPointError(
                    f"step {step}: the gradient was not finite {self.skipped} times; lower lr_scale"
                )
        for parameter in self.parameters:
            parameter.grad = None
        return {
            "train/grad_norm": norm,
            "train/lr_factor": factor,
            "train/skipped_steps": self.skipped,
            "train/silent_steps": self.silent,
        }

    def _norms(self, grads: list[Tensor], stopping: bool) -> tuple[Tensor, Tensor]:
        """Euclidean norm [] of the summed gradients of all ranks; number of ranks that are `stopping`, then the squared
        norms of all ranks' shards."""
        found = torch.zeros(2 + self._zero.n_shards, device=self.world.device)
        if stopping:
            found[1] = 1.0
        if grads:
            # torch has no public function for this.
            norms = torch._foreach_norm(grads)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            squares = torch.stack(norms).square()
            found[0] = squares.sum()
            found[2 + self._slots] = squares
        self.world.sum(found)
        return found[0].sqrt(), found[1:]

    @torch.no_grad()
    def _update(self, step: int, grads: list[Tensor], factor: float, moving: set[str]) -> None:
        pairs = [(p, grad) for p, grad in zip(self._zero.mine, grads, strict=True) if p.name in moving]
        for _, members in groupby(pairs, key=lambda pair: id(pair[0].group)):
            shards, shard_grads = zip(*members, strict=True)
            group = shards[0].group
            params = [shard.of(shard.param.data) for shard in shards]
            moments = [self.moments[shard.name, shard.start] for shard in shards]
            exp_avgs, exp_avg_sqs = [m["first"] for m in moments], [m["second"] for m in moments]
            if group.muon:
                muon.step(
                    params, shard_grads, exp_avgs, exp_avg_sqs, lr=group.peak_lr * factor, beta2=self.config.muon_beta2,
                    momentum=momentum_at(step, self.steps, self.config),
                    weight_decay=group.weight_decay * weight_decay_factor(step, self.steps),
                    dtype=self.world.compute_dtype,
                )  # fmt: skip
            else:
                adamw.step(
                    params, shard_grads, exp_avgs, exp_avg_sqs, lr=group.peak_lr * factor, count=self.applied,
                    betas=group.betas, eps=group.eps, weight_decay=group.weight_decay,
                )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """This rank's moments by parameter and first row, and the counts."""
        moments: dict[str, dict[str, Any]] = {}
        for (name, start), tensors in self.moments.items():
            moments.setdefault(name, {})[str(start)] = tensors
        return {"applied": self.applied, "skipped": self.skipped, "silent": self.silent, "moments": moments}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Load this rank's share of the moments of all ranks, regardless of how many wrote them."""
        self.applied, self.skipped = state_dict["applied"], state_dict["skipped"]
        self.silent = state_dict.get("silent", 0)  # missing in older states
        for shard in self._zero.mine:
            saved = sorted(state_dict["moments"][shard.name].items(), key=lambda item: int(item[0]))
            for kind, mine in self.moments[shard.name, shard.start].items():
                mine.copy_(shard.of(torch.cat([tensors[kind] for _, tensors in saved])))


def read(numbers: Tensor) -> list[float]:
    """Copies the numbers to the host at once, waiting for the device."""
    # torch does not declare the return type.
    return cast("list[float]", numbers.cpu().tolist())  # pyright: ignore[reportUnknownMemberType]


def _fresh_moments(shard: ParamShard) -> dict[str, Tensor]:
    first = torch.zeros_like(shard.of(shard.param.data))
    return {"first": first, "second": torch.zeros_like(first[:, :1] if shard.group.muon else first)}
