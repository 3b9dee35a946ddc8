"""What the headline of an artifact is to be compared with, in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

BASELINES: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("rl_accuracy", "{:.1%} right after RL".format),
    ("sft_accuracy", "{:.1%} after SFT".format),
    ("constant_letter_accuracy", "best constant answer {:.1%}".format),
    ("held_out_accuracy_before", "{:.1%} before".format),
    ("train_loss", "training loss {:.3f} nats per token".format),
    ("cl100k_bytes_per_token", "GPT-4's vocabulary {:.2f}".format),
)
"""Metrics that complement a headline and their formats; all that an artifact has are shown."""


def comparison(metrics: Mapping[str, Any]) -> str:
    """`best constant answer 20.8%`; empty if there is nothing to compare with."""
    return ", ".join(shown(metrics[name]) for name, shown in BASELINES if metrics.get(name) is not None)
