"""Statistics of several sampled answers to each question: mean@n, pass@k, majority@k; errors clustered by question.

Samples of one question are not independent of each other, so the question is the unit of every error here (Miller 2024,
"Adding error bars to evals", arXiv 2411.00640, section 2.2). Suffixes name axes: Q questions, S samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from aquarat_core.evaluation.statistics import normal_quantile

_T = TypeVar("_T")


class Mean(NamedTuple):
    """A mean over questions with its standard error and its 95 % interval. All are shares in [0, 1]."""

    value: float
    se: float
    lo: float
    hi: float


def mean_at_n(correct_QS: Sequence[Sequence[bool]]) -> Mean:
    """Share of right samples, with the standard error clustered by question.

    With as many samples of each question, the clustered error is the standard error of the questions' means. Raises
    ValueError without questions or samples, or if their numbers differ.
    """
    counted = _with_count(correct_QS)
    return mean_over_questions([sum(correct_S) / n for correct_S, n in counted], len(counted) * counted[0][1])


def pass_at_k(correct_Q: Sequence[int], n: int, k: int) -> Mean:
    """Chance that at least one of `k` samples is right, from `n` samples of each question, `correct_Q` of them right.

    The unbiased estimate 1 - C(n - c, k) / C(n, k) of each question, averaged (Chen et al. 2021, "Evaluating large
    language models trained on code", equation 1); it varies much for k near n. Raises ValueError unless 1 <= k <= n.
    """
    _check_k(n, k)
    if any(not 0 <= c <= n for c in correct_Q):
        raise ValueError(
            f"right samples of a question must be between 0 and {n}, got {min(correct_Q)}..{max(correct_Q)}"
        )
    subsets = math.comb(n, k)
    return mean_over_questions([1 - math.comb(n - c, k) / subsets for c in correct_Q], n * len(correct_Q))


def pass_at_k_of_chance(chance_Q: Sequence[float], k: int) -> float:
    """What pass@k would be if every sample were an independent guess that is right with the question's chance.

    The reference line of `pass_at_k`: 1 - (1 - p)^k on average. For majority@k it is the chance itself where all
    choices are as likely.
    """
    return sum(1 - (1 - p) ** k for p in chance_Q) / len(chance_Q)


def majority_at_k(answers_QS: Sequence[Sequence[str | None]], golds: Sequence[str], k: int) -> Mean:
    """Chance that the commonest answer of `k` samples is right: the mean over all subsets of k samples, exactly.

    Answers that tie for the commonest share the question evenly. None (no parsed answer) is no vote; without any vote
    the question is wrong. Answers are equal if their texts are (Wang et al. 2022, "Self-consistency improves chain of
    thought reasoning"). Raises ValueError unless 1 <= k <= samples, or if the numbers of samples or golds differ.
    """
    counted = _with_count(answers_QS)
    samples = counted[0][1]
    _check_k(samples, k)
    return mean_over_questions(
        [_majority(Counter(answers_S), gold, n, k) for (answers_S, n), gold in zip(counted, golds, strict=True)],
        samples * len(golds),
    )


def mean_over_questions(values_Q: Sequence[float], answers: int) -> Mean:
    """Mean of one value in [0, 1] for each question; `answers` is how many answers these are from.

    The interval is Wilson's with the number of independent answers that would have this standard error in place of n
    (Dean & Pagano 2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys"): it
    stays inside [0, 1] and has a width where all questions agree. That number is at most `answers`: means that happen
    to lie close together are no evidence of more. One question counts as one answer.
    """
    n = len(values_Q)
    if not n:
        raise ValueError("no questions: there is no mean")
    value = float(np.mean(values_Q))
    binomial = value * (1 - value)
    se = float(np.std(values_Q, ddof=1)) / math.sqrt(n) if n > 1 else math.sqrt(binomial)
    effective = min(binomial / se**2, answers) if se > 1e-9 else n
    return Mean(value, se, *_wilson(value, effective))


def _wilson(p: float, n: float) -> tuple[float, float]:
    """`wilson_interval` for an `n` that is no whole number, which SciPy does not take."""
    z = normal_quantile(0.975)
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def _majority(votes: Counter[str | None], gold: str, n: int, k: int) -> float:
    """Mean share of `gold` in the majority of k of the n samples.

    For every number g of votes for `gold`, counts the subsets where nothing has more, by how many others tie with it.
    """
    unparsed, right = votes[None], votes[gold]
    others = [count for answer, count in votes.items() if answer is not None and answer != gold]
    share = 0.0
    for g in range(1, min(right, k) + 1):
        ways: dict[tuple[int, int], int] = {(0, 0): 1}  # (samples taken of the others, answers that tie) -> subsets
        for count in others:
            ways = _take(ways, count, g, k - g)
        for (taken, ties), subsets in ways.items():
            share += math.comb(right, g) * subsets * math.comb(unparsed, k - g - taken) / (1 + ties)
    return share / math.comb(n, k)


def _take(ways: dict[tuple[int, int], int], count: int, at_most: int, room: int) -> dict[tuple[int, int], int]:
    """The ways after one more answer, of which there are `count`, has got its votes."""
    after: Counter[tuple[int, int]] = Counter()
    for (taken, ties), subsets in ways.items():
        for votes in range(min(count, at_most, room - taken) + 1):
            after[taken + votes, ties + (votes == at_most)] += subsets * math.comb(count, votes)
    return after


def _with_count(values_QS: Sequence[Sequence[_T]]) -> list[tuple[Sequence[_T], int]]:
    counts = {len(values_S) for values_S in values_QS}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"every question needs the same number of samples, at least one; found {sorted(counts)}")
    (n,) = counts
    return [(values_S, n) for values_S in values_QS]


def _check_k(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the {n} samples of each question, got {k}")
