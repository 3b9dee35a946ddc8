"""Schedules of the learning rate, momentum and weight decay, as functions of the step."""

from __future__ import annotations

import math

from aquarat_core.config import OptimConfig


def lr_factor(step: int, steps: int, config: OptimConfig) -> float:
    """Fraction of the peak learning rate at `step` (0-based) of `steps`: linear warm-up, constant, linear warm-down.

    The trapezoid of Hägele et al. 2024 (arXiv 2405.18392). The first step of the warm-up is above zero and the last
    step of the warm-down above `final_lr`, so that no step is wasted.
    """
    warmup, warmdown = round(config.warmup * steps), round(config.warmdown * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = steps - step
    if left <= warmdown:
        share = left / (warmdown + 1)
        return share + (1 - share) * config.final_lr
    return 1.0


def momentum_at(step: int, steps: int, config: OptimConfig) -> float:
    """Muon's momentum: `momentum_first` to `momentum` over the first steps, to `momentum_last` in the warm-down."""
    if step < config.momentum_steps:
        share = step / config.momentum_steps
        return config.momentum_first + share * (config.momentum - config.momentum_first)
    warmdown = round(config.warmdown * steps)
    left = steps - step
    if config.momentum_last is not None and left <= warmdown:
        share = left / (warmdown + 1)
        return config.momentum_last + share * (config.momentum - config.momentum_last)
    return config.momentum


def weight_decay_factor(step: int, steps: int) -> float:
    """Fraction of the weight decay at `step`: a half cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))
