"""Schedules of the learning rate, momentum and weight decay, as functions of the step."""

from __future__ import annotations

import math

from aquarat_core.config import OptimConfig


def lr_factor(step: int, steps: int, config: OptimConfig) -> float:
    """Fraction of the peak learning rate at `step` (0-based) of `steps`: linear warm-up, constant, warm-down.

    With a linear warm-down, the trapezoid of Hägele et al. 2024 (arXiv 2405.18392). The first step of the warm-up is
    above zero and the last step of the warm-down above `final_lr`, so that no step is wasted.
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    share = _share_left(step, steps, config)
    return share + (1 - share) * config.final_lr


def momentum_at(step: int, steps: int, config: OptimConfig) -> float:
    """Muon's momentum: `momentum_first` to `momentum` over the first steps, to `momentum_last` in the warm-down."""
    if step < config.momentum_steps:
        share = step / config.momentum_steps
        return config.momentum_first + share * (config.momentum - config.momentum_first)
    share = _share_left(step, steps, config)
    if config.momentum_last is None or share == 1:
        return config.momentum
    return config.momentum_last + share * (config.momentum - config.momentum_last)


def _share_left(step: int, steps: int, config: OptimConfig) -> float:
    """How far the rates are from the end of the warm-down: 1 before it begins, and still above 0 in its last step."""
    warmdown = round(config.warmdown * steps)
    left = steps - step
    if left > warmdown:
        return 1.0
    share = left / (warmdown + 1)
    return 0.5 * (1 - math.cos(math.pi * share)) if config.warmdown_shape == "cosine" else share


def weight_decay_factor(step: int, steps: int) -> float:
    """Fraction of the weight decay at `step`: a half cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))
