"""The most important number of each artifact, as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def _rl_against_sft(p: float) -> str:
    # Imports numpy, which commands and Dagster's definitions do without.
    from aquarat_core.evaluation.statistics import p_text

    return f"RL against SFT: {p_text(p, 'p')}"


HEADLINES: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("val_bpb", "{:.3f} bits per byte on validation text".format),
    ("held_out_accuracy_best", "{:.1%} of held-out questions right, at best".format),
    ("val_loss", "validation loss {:.3f}".format),
    ("rl_mcnemar_p", _rl_against_sft),
    ("bytes_per_token", "{:.2f} bytes per token".format),
    ("rows_train", "{:,} training questions".format),
    ("train_tokens", "{:,} training tokens".format),
    ("train_documents", "{:,} training documents".format),
    ("parameters", "{:,} parameters".format),
)
"""Metrics for the summary line and their formats; the first one that an artifact has is shown."""


def headline(metrics: Mapping[str, Any]) -> str:
    """The most important number of an artifact; empty if its stage measured none, or if metrics from elsewhere have
    other types than ours."""
    try:
        return accuracy_text(metrics) or _first(metrics)
    except (KeyError, TypeError, ValueError):
        return ""


def _first(metrics: Mapping[str, Any]) -> str:
    for name, shown in HEADLINES:
        if metrics.get(name) is not None:
            return shown(metrics[name])
    rows = {name: n for name, n in metrics.items() if name.endswith("_train") and isinstance(n, int)}
    # Only sources of documents have a size of their text.
    documents = sum(n for name, n in rows.items() if f"{name}_bytes" in metrics)
    counts = {"conversations": sum(rows.values()) - documents, "documents": documents}
    said = " and ".join(f"{n:,} {what}" for what, n in counts.items() if n)
    return f"{said} to train on" if said else ""


def accuracy_text(metrics: Mapping[str, Any]) -> str | None:
    """`41.2% [39.1%, 43.4%] of 2,000`, or None if the stage measured no accuracy."""
    if metrics.get("accuracy") is None:
        return None
    low, high = metrics["accuracy_lo"], metrics["accuracy_hi"]
    return f"{metrics['accuracy']:.1%} [{low:.1%}, {high:.1%}] of {metrics['n']:,}"
