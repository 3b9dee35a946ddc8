"""Figures as text: percentages with their intervals, and sentences about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aquarat_core.evaluation.statistics import p_text
from aquarat_core.evaluation.summary import Summary

if TYPE_CHECKING:
    from aquarat_core.evaluation.report import ComparisonWithParent

EXACT = 1e-12
"""Shares nearer to 0 or 1 are 0 or 1 but for the rounding of floats."""


def baseline_sentence(name: str, s: Summary) -> str:
    """Whether the accuracy is more than a constant answer's, with the evidence."""
    best = s["constant_letter"]
    constant = f"the best constant {answer_noun(s)} ({best['letter']}, {percent(best['accuracy'])})"
    verdict = {"above": "is above", "below": "is below"}.get(s["against_constant"], "is not shown to differ from")
    return f"{name} {verdict} {constant}: {accuracy_text(s)}, {p_text(s['p_against_constant'], 'exact McNemar p')}."


def comparison_sentence(c: ComparisonWithParent) -> str:
    """The paired finding, or why there is none."""
    return c["result"]["wording"] if c["result"] else f"No comparison with a parent stage: {c['reason']}."


def answer_noun(s: Summary) -> str:
    """The word for an answer: "letter" if the answers are few and named by letters."""
    return "letter" if s["letters"] else "answer"


def accuracy_text(s: Summary) -> str:
    """An accuracy with its interval, as it is printed."""
    return f"{percent(s['accuracy'])} {interval(s)}"


def interval(s: Summary) -> str:
    """The Wilson interval in percent."""
    return bounds(s["accuracy_lo"], s["accuracy_hi"])


def percent(share: float) -> str:
    """A share in percent with one decimal; with more where it would look like 0 or 100 % and is not, as in 99.95%."""
    exact = min(share, 1 - share) < EXACT
    for decimals in range(1, 5):
        text = f"{100 * share:.{decimals}f}"
        if exact or float(text) not in (0, 100):
            return f"{text}%"
    return "> 99.9999%" if share > 0.5 else "< 0.0001%"


def rate(value: float, lo: float, hi: float) -> str:
    """A share with its 95% interval: "81.3% [79.0, 83.4]"."""
    return f"{percent(value)} {bounds(lo, hi)}"


def bounds(lo: float, hi: float, sign: str = "") -> str:
    """An interval in percent; with `sign` "+", of differences in points."""
    return f"[{100 * lo:{sign}.1f}, {100 * hi:{sign}.1f}]"


def facts_text(facts: Mapping[str, Any]) -> str:
    """Names and values on one line, numbers with four significant digits: "loss 1.235; steps 1200"."""
    return "; ".join(f"{name} {_number(value)}" for name, value in sorted(facts.items()))


def _number(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 and math.isfinite(value) else f"{value:.4g}"


def shortened(answer: str, limit: int = 12) -> str:
    """An answer that may be a whole program, cut for a table."""
    line = " ".join(answer.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
