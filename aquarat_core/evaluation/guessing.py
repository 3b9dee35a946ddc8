"""Tests several answers to each question against guessing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from aquarat_core.evaluation.statistics import RESAMPLES


class Answered(NamedTuple):
    """The answers to one question that has options."""

    answers: Sequence[Hashable | None]
    """Which option each answer chose; None for an answer that does not parse, which is never right."""
    gold: Hashable
    options: int


def p_above_guessing(questions: Sequence[Answered], *, seed: int, resamples: int = RESAMPLES) -> float:
    """One-sided p of "the right option of each question could as well be any other of its options".

    Answers to one question depend on each other, so the question is the unit: they are kept as they are, and the right
    option of every question is drawn anew, each as likely, `resamples` times (a randomization test: Fisher 1935, "The
    Design of Experiments"). p is the share of draws whose mean accuracy over questions is at least the observed one,
    which is counted as one more draw (Phipson & Smyth 2010). Raises ValueError without questions, and for one without
    answers or with more different answers than options.
    """
    if not questions:
        raise ValueError("no questions: there is nothing to test")
    kinds = Counter(map(_kind, questions))
    rng, means = np.random.default_rng(seed), np.zeros(resamples)
    for shares, count in sorted(kinds.items()):
        means += rng.multinomial(count, [1 / len(shares)] * len(shares), size=resamples) @ np.array(shares)
    observed = sum(sum(x == q.gold for x in q.answers) / len(q.answers) for q in questions)
    # Sums of the same shares in another order may differ in their last bits.
    return (1 + int(np.count_nonzero(means >= observed - 1e-9))) / (1 + resamples)


def _kind(question: Answered) -> tuple[float, ...]:
    """The share of the answers that each option got, the largest first: the accuracy if that option were right."""
    counts = Counter(x for x in question.answers if x is not None)
    if not question.answers or len(counts | Counter([question.gold])) > question.options:
        raise ValueError(
            f"{len(question.answers)} answers name {len(counts)} options, of a question with {question.options}"
        )
    shares = sorted((count / len(question.answers) for count in counts.values()), reverse=True)
    return (*shares, *[0.0] * (question.options - len(shares)))
