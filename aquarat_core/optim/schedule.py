"""Learning-rate schedules as plain functions of the step."""

from __future__ import annotations

from aquarat_core.config import OptimConfig


def lr_factor(step: int, steps: int, config: OptimConfig) -> float:
    """Share of the peak learning rate at `step` (0-based) of `steps`: linear warm-up, constant, linear warm-down.

    The trapezoid of Hägele et al. 2024 (arXiv 2405.18392). The first step of a warm-up is above zero and the last step
    of a warm-down above `final_lr`, so that no step is spent on nothing.
    """
    warmup, warmdown = round(config.warmup * steps), round(config.warmdown * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = steps - step
    if left <= warmdown:
        share = left / (warmdown + 1)
        return share + (1 - share) * config.final_lr
    return 1.0
