"""One optimizer step: gradients summed over ranks, clipped by their global norm, and applied under the schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from aquarat_core.config import OptimConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.optim import adamw, muon
from aquarat_core.optim.groups import parameter_groups
from aquarat_core.optim.schedule import lr_factor, momentum_at, weight_decay_factor
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.preemption import Abandoned, Stop, never
from aquarat_core.training.buckets import GradientExchange
from aquarat_core.training.shards import ParamShard

T = TypeVar("T")
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
        self.exchange = GradientExchange(parameter_groups(model, config), world)
        self.moments = {(p.name, p.start): _fresh_moments(p) for p in self.exchange.mine}
        self._slots = torch.tensor(self.exchange.indices, device=world.device)
        self.applied = 0
        """Number of applied steps, which is AdamW's count."""
        self.skipped = 0
        self.silent = 0
        """Number of steps without a gradient."""

    def step(self, step: int, stop: Stop = never) -> dict[str, float]:
        """Reduce, clip, step and clear the gradients; returns the global gradient norm and the learning rate factor.

        A zero gradient changes nothing. A non-finite one skips the step; more than `MAX_SKIPPED` of them raise
        `FloatingPointError`. Reading the norms is the only point in a step where the host waits for a GPU: AdamW's
        count, and what every rank does next, depend on whether the update happens. Deciding that on the device would
        cost passes over all moments.

        Raises `Abandoned` on all ranks, with everything unchanged, if `stop` returns true on any: the norms include
        that.
        """
        grads = self.exchange.gradients()
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
            self._update(step, grads, factor, self.exchange.moving(lengths))
            self.exchange.gather_weights()
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
        found = torch.zeros(2 + self.exchange.n_shards, device=self.world.device)
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
        exchange = self.exchange
        owned = zip(exchange.mine, exchange.weights, grads, strict=True)
        for _, members in groupby((o for o in owned if o[0].name in moving), key=lambda o: id(o[0].group)):
            shards, params, shard_grads = zip(*members, strict=True)
            group = shards[0].group
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
        """This rank's moments by parameter and first row, the counts, and the weights if the model's are rounded."""
        moments: dict[str, dict[str, Any]] = {}
        for (name, start), tensors in self.moments.items():
            moments.setdefault(name, {})[str(start)] = tensors
        counts = {"applied": self.applied, "skipped": self.skipped, "silent": self.silent}
        if not self.exchange.rounds:
            return {**counts, "moments": moments}
        weights: dict[str, dict[str, Tensor]] = {}
        for shard, weight in zip(self.exchange.mine, self.exchange.weights, strict=True):
            weights.setdefault(shard.name, {})[str(shard.start)] = weight
        return {**counts, "moments": moments, "weights": weights}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Load this rank's share of the state of all ranks, regardless of how many wrote it."""
        self.applied, self.skipped = state_dict["applied"], state_dict["skipped"]
        self.silent = state_dict.get("silent", 0)  # missing in older states
        for shard, weight in zip(self.exchange.mine, self.exchange.weights, strict=True):
            saved = _by_rows(state_dict["moments"][shard.name])
            for kind, mine in self.moments[shard.name, shard.start].items():
                mine.copy_(shard.of(torch.cat([tensors[kind] for tensors in saved])))
            if self.exchange.rounds:
                weight.copy_(shard.of(torch.cat(_by_rows(state_dict["weights"][shard.name]))))

    def finish(self) -> None:
        """Give the model the float32 weights after the last step, on all ranks."""
        if self.exchange.rounds:
            self.exchange.gather_weights(torch.float32)


def read(numbers: Tensor) -> list[float]:
    """Copies the numbers to the host at once, waiting for the device."""
    # torch does not declare the return type.
    return cast("list[float]", numbers.cpu().tolist())  # pyright: ignore[reportUnknownMemberType]


def _by_rows(saved: Mapping[str, T]) -> list[T]:
    """What ranks saved of a parameter, by its first row, in the order of rows."""
    return [saved[start] for start in sorted(saved, key=int)]


def _fresh_moments(shard: ParamShard) -> dict[str, Tensor]:
    first = torch.zeros_like(shard.of(shard.param.data))
    return {"first": first, "second": torch.zeros_like(first[:, :1] if shard.group.muon else first)}
