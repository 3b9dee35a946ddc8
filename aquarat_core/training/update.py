"""One optimizer step: gradients summed over ranks, clipped by their global norm, and applied under the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from aquarat_core.config import OptimConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.optim.groups import build_optimizers, gradient_norm, set_lr
from aquarat_core.optim.schedule import lr_factor
from aquarat_core.training.distributed import World

MAX_SKIPPED = 10
"""Steps with a non-finite gradient that a run survives."""


class Updater:
    """Owns the optimizers of a run of `steps` steps.

    The caller divides its losses by the number of target tokens of all ranks and micro-batches before the backward
    pass: gradients are summed here, not averaged, so the result does not depend on how the batch was cut.
    """

    def __init__(self, model: Transformer, config: OptimConfig, steps: int, world: World) -> None:
        self.config, self.steps, self.world = config, steps, world
        self.parameters = list(model.parameters())
        self._names = {p: name for name, p in model.named_parameters()}
        self.optimizers = build_optimizers(model, config)
        self.skipped = 0

    def apply(self, step: int) -> dict[str, float]:
        """Reduce, clip, step and clear the gradients; returns the global gradient norm and the rate's factor.

        A non-finite gradient skips the step; more than `MAX_SKIPPED` of them raise `FloatingPointError`.
        """
        self._reduce()
        norm = gradient_norm(self.parameters)
        factor = lr_factor(step, self.steps, self.config)
        if torch.isfinite(norm):
            if self.config.grad_clip is not None:
                scale = (self.config.grad_clip / (norm + 1e-6)).clamp(max=1.0)
                torch._foreach_mul_([p.grad for p in self.parameters], scale)
            set_lr(self.optimizers, factor)
            for optimizer in self.optimizers:
                optimizer.step()
        else:
            self.skipped += 1
            if self.skipped > MAX_SKIPPED:
                raise FloatingPointError(
                    f"step {step}: the gradient was not finite {self.skipped} times; lower lr_scale"
                )
        for parameter in self.parameters:
            parameter.grad = None
        return {"train/grad_norm": float(norm), "train/lr_factor": factor, "train/skipped_steps": self.skipped}

    def state_dict(self) -> dict[str, Any]:
        """Moments by the parameter's name, and the count of skipped steps."""
        moments = {self._names[p]: dict(state) for o in self.optimizers for p, state in o.state.items()}
        return {"skipped": self.skipped, "moments": moments}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.skipped = state_dict["skipped"]
        for optimizer in self.optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                saved = state_dict["moments"].get(self._names[parameter], {})
                # torch keeps AdamW's step counts on the CPU.
                optimizer.state[parameter] = {
                    name: value if value.ndim == 0 else value.to(parameter.device) for name, value in saved.items()
                }

    def _reduce(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.world.size == 1:
            return
        flat = torch.cat([p.grad.flatten() for p in self.parameters])
        self.world.sum(flat)
        sizes = [p.numel() for p in self.parameters]
        for parameter, part in zip(self.parameters, flat.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
