"""The few numbers of an artifact that Dagster plots over its materializations, with units and rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLOTTED: Mapping[str, tuple[str, float]] = {
    "accuracy": ("accuracy (%)", 100),
    "parse_rate": ("readable answers (%)", 100),
    "parent_difference": ("gain over the stage before (points)", 100),
    "rl_accuracy": ("accuracy after RL (%)", 100),
    "rl_difference": ("gain of RL over SFT (points)", 100),
    "held_out_accuracy_best": ("held-out accuracy (%)", 100),
    "reward_mean_last": ("reward of the last step", 1),
    "bpb": ("bits per byte", 1),
    "val_bpb": ("bits per byte", 1),
    "val_loss": ("validation loss (nats per token)", 1),
    "bytes_per_token": ("bytes per token", 1),
    "tokens_per_second": ("tokens per second", 1),
    "sampled_tokens_per_second": ("tokens per second", 1),
    "seconds": ("duration (minutes)", 1 / 60),
}
"""By metric: the key of the number in the metadata, and the factor of its unit."""


def numbers(metrics: Mapping[str, Any]) -> dict[str, int | float]:
    """The plotted numbers among an artifact's metrics, with four significant digits."""
    return {
        f"number/{name}": rounded(factor * value)
        for metric, (name, factor) in PLOTTED.items()
        if isinstance(value := metrics.get(metric), int | float) and not isinstance(value, bool)
    }


def rounded(value: float, digits: int = 4) -> int | float:
    """The value with that many significant digits."""
    if isinstance(value, int):
        return value
    return float(f"{value:.{digits}g}")
