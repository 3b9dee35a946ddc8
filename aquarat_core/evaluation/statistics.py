"""The few statistics an accuracy needs before it may be printed, in plain Python and exact where exactness is cheap.

One evaluation holds a few hundred to a few thousand right-or-wrong answers, so proportions get Wilson intervals, paired
differences get the exact McNemar test, and every accuracy stands beside what a constant answer would have scored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, "Probable inference, the law of succession").

    Unlike p +- z*sqrt(pq/n) it stays inside [0, 1] and keeps its coverage near 0 and 1.
    Raises ValueError unless 0 <= correct <= n and n >= 1.
    """
    _check_counts(correct, n)
    z = _z(1 - (1 - confidence) / 2)
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 0.0 if correct == 0 else centre - half, 1.0 if correct == n else centre + half


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p of "both are right equally often", from the questions that exactly one of them got right.

    Under the null hypothesis the discordant pairs fall either way with probability 1/2, so p is twice the smaller
    binomial tail, at most 1 (McNemar 1947; exact form: Fay 2010, "Two-sided exact tests", R Journal 2:1). Summed in
    integers: no approximation for small counts.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"discordant counts cannot be negative: {only_first}, {only_second}")
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def binomial_test(correct: int, n: int, p: float, alternative: Literal["greater", "two-sided"] = "greater") -> float:
    """Exact p-value of `correct` successes in `n` trials of probability `p` (Clopper & Pearson 1934).

    `greater` is P(X >= correct); `two-sided` adds up every outcome no likelier than the observed one, as R's
    `binom.test` does. Raises ValueError for counts out of range or a `p` outside (0, 1).
    """
    _check_counts(correct, n)
    if not 0 < p < 1:
        raise ValueError(f"p must lie strictly between 0 and 1, got {p}")
    if alternative == "greater":
        return min(1.0, math.fsum(_binomial_pmf(i, n, p) for i in range(correct, n + 1)))
    observed = _binomial_pmf(correct, n, p) * (1 + 1e-7)  # equal outcomes differ in the last bits
    return min(1.0, math.fsum(q for i in range(n + 1) if (q := _binomial_pmf(i, n, p)) <= observed))


def paired_bootstrap_interval(
    only_first: int, only_second: int, n: int, *, seed: int, resamples: int = 10_000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of accuracy(second) - accuracy(first) on the same `n` questions (Efron 1979).

    A question contributes +1, 0 or -1, so resampling questions with replacement is one multinomial draw over the
    three outcomes; nothing is lost by knowing only the counts.
    """
    if only_first < 0 or only_second < 0 or only_first + only_second > n or n < 1:
        raise ValueError(f"{only_first} + {only_second} discordant questions do not fit into n = {n}")
    outcomes = np.array([only_first, n - only_first - only_second, only_second]) / n
    draws = np.random.default_rng(seed).multinomial(n, outcomes, size=resamples)
    differences = (draws[:, 2] - draws[:, 0]) / n
    lo, hi = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lo), float(hi)


def minimum_detectable_difference(n: int, discordance: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest paired difference of accuracies that `n` questions show with this power, two-sided at `alpha`.

    `discordance` is the share of questions that exactly one of the two gets right. Normal approximation with the null
    variance (Connor 1987, "Sample size for testing differences in proportions for the paired-sample design").
    """
    if n < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"need n >= 1 and a discordance in [0, 1], got n = {n}, discordance = {discordance}")
    return (_z(1 - alpha / 2) + _z(power)) * math.sqrt(discordance / n)


def best_constant_answer(golds: Iterable[str], categories: Sequence[str] = ()) -> tuple[str, float]:
    """The answer that is right most often and the accuracy of always giving it; the earlier one on a tie."""
    counts = answer_counts(golds, categories)
    total = sum(counts.values())
    if not total:
        raise ValueError("no questions: there is no best constant answer")
    answer = max(counts, key=lambda x: counts[x])
    return answer, counts[answer] / total


def answer_counts(answers: Iterable[str | None], categories: Sequence[str] = ()) -> dict[str, int]:
    """How often each of the categories occurs, in their order and all of them always present; without categories, each
    answer there is, in alphabetical order. None (no parsed answer) is not counted."""
    seen = Counter(answer for answer in answers if answer is not None)
    return {answer: seen[answer] for answer in categories or sorted(seen)}


def entropy_bits(counts: Mapping[str, int]) -> float:
    """Shannon entropy of a histogram in bits: log2(n) for n even answers, 0 for a collapsed model or no counts."""
    total = sum(counts.values())
    return math.fsum(-c / total * math.log2(c / total) for c in counts.values() if c)


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def _binomial_pmf(i: int, n: int, p: float) -> float:
    log_choose = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
    return math.exp(log_choose + i * math.log(p) + (n - i) * math.log1p(-p))


def _check_counts(correct: int, n: int) -> None:
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"need 0 <= correct <= n and n >= 1, got {correct} of {n}")
