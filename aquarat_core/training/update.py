"""One optimizer step: gradients summed over ranks, clipped by their global norm, and applied under the schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from aquarat_core.config import OptimConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.optim import adamw, muon
from aquarat_core.optim.groups import parameter_groups
from aquarat_core.optim.schedule import lr_factor, momentum_at, weight_decay_factor
from aquarat_core.training.distributed import World
from aquarat_core.training.shards import Exchange, Piece, plan

MAX_SKIPPED = 10
"""Steps with a non-finite gradient that a run survives."""


class Updater:
    """Owns this rank's share of the optimizer of a run of `steps` steps.

    The caller divides its losses by the number of target tokens of all ranks and micro-batches before the backward
    pass: gradients are summed here, not averaged, so the result does not depend on how the batch was cut.
    """

    def __init__(self, model: Transformer, config: OptimConfig, steps: int, world: World) -> None:
        self.config, self.steps, self.world = config, steps, world
        self.parameters = [p for p in model.parameters() if p.numel()]
        self._exchange = Exchange(plan(parameter_groups(model, config), world.size), world)
        self.moments = {(p.name, p.start): _fresh_moments(p) for p in self._exchange.mine}
        self.applied = 0
        """Steps that were applied: AdamW's count."""
        self.skipped = 0

    def apply(self, step: int) -> dict[str, float]:
        """Reduce, clip, step and clear the gradients; returns the global gradient norm and the rate's factor.

        A non-finite gradient skips the step; more than `MAX_SKIPPED` of them raise `FloatingPointError`. Reading the
        norm is the one place where the host waits for a GPU in a step: whether the update happens decides AdamW's count
        and what every rank does next, and a device that decided alone would pay with passes over all moments.
        """
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = self._exchange.gradients()
        norm_there = self._norm(grads)
        norm = float(norm_there)
        factor = lr_factor(step, self.steps, self.config)
        if math.isfinite(norm):
            if self.config.grad_clip is not None and grads:
                torch._foreach_mul_(grads, (self.config.grad_clip / (norm_there + 1e-6)).clamp(max=1.0))
            self.applied += 1
            self._update(step, grads, factor)
            self._exchange.spread_weights()
        else:
            self.skipped += 1
            if self.skipped > MAX_SKIPPED:
                raise FloatingPointError(
                    f"step {step}: the gradient was not finite {self.skipped} times; lower lr_scale"
                )
        for parameter in self.parameters:
            parameter.grad = None
        return {"train/grad_norm": norm, "train/lr_factor": factor, "train/skipped_steps": self.skipped}

    def _norm(self, grads: list[Tensor]) -> Tensor:
        """Euclidean norm of the summed gradients of all ranks."""
        squares = torch.zeros((), device=self.world.device)
        if grads:
            squares += torch.stack(torch._foreach_norm(grads)).square().sum()
        return self.world.sum(squares).sqrt()

    @torch.no_grad()
    def _update(self, step: int, grads: list[Tensor], factor: float) -> None:
        pairs = zip(self._exchange.mine, grads, strict=True)
        for _, members in groupby(pairs, key=lambda pair: id(pair[0].group)):
            pieces, given = zip(*members, strict=True)
            group = pieces[0].group
            params = [piece.of(piece.param.data) for piece in pieces]
            moments = [self.moments[piece.name, piece.start] for piece in pieces]
            firsts, seconds = [m["first"] for m in moments], [m["second"] for m in moments]
            if group.muon:
                muon.step(
                    params, given, firsts, seconds, lr=group.peak_lr * factor, beta2=self.config.muon_beta2,
                    momentum=momentum_at(step, self.steps, self.config),
                    weight_decay=group.weight_decay * weight_decay_factor(step, self.steps),
                    dtype=self.world.compute_dtype,
                )  # fmt: skip
            else:
                adamw.step(
                    params, given, firsts, seconds, lr=group.peak_lr * factor, count=self.applied,
                    betas=group.betas, eps=group.eps, weight_decay=group.weight_decay,
                )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """This rank's moments by parameter and first row, and the counts."""
        moments: dict[str, dict[str, Any]] = {}
        for (name, start), tensors in self.moments.items():
            moments.setdefault(name, {})[str(start)] = tensors
        return {"applied": self.applied, "skipped": self.skipped, "moments": moments}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Take this rank's share of the moments of all ranks, however many wrote them."""
        self.applied, self.skipped = state_dict["applied"], state_dict["skipped"]
        for piece in self._exchange.mine:
            saved = sorted(state_dict["moments"][piece.name].items(), key=lambda item: int(item[0]))
            for kind, mine in self.moments[piece.name, piece.start].items():
                mine.copy_(piece.of(torch.cat([tensors[kind] for _, tensors in saved])))


def _fresh_moments(piece: Piece) -> dict[str, Tensor]:
    first = torch.zeros_like(piece.of(piece.param.data))
    return {"first": first, "second": torch.zeros_like(first[:, :1] if piece.group.muon else first)}
