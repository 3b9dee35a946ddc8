"""The statistics an accuracy needs before it may be printed: from SciPy where it has them, exact where that is cheap.

One evaluation holds a few hundred to a few thousand right-or-wrong answers, so proportions get Wilson intervals, paired
differences get the exact McNemar test, and every accuracy stands beside what a constant answer would have scored.
Where a question is answered several times, its mean is the unit: tests and intervals of paired means are here, those of
one evaluation in `sampling.py`. SciPy is imported inside functions because its import takes a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

SMALLEST_P = 1e-300
"""P-values below this are printed as "< 1e-300": floats end a little below it, and 0 would claim too much."""
RESAMPLES = 10_000
Correction = Literal["holm", "benjamini-hochberg"]
"""How the p-values of many comparisons are corrected."""


class Uniformity(NamedTuple):
    """A chi-square test against equal frequencies, and its effect size."""

    chi2: float
    p: float
    cramers_v: float
    """From 0 (all equally often) to 1 (always the same)."""


class CochranQ(NamedTuple):
    """Cochran's test of equal accuracies."""

    q: float
    p: float


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, "Probable inference, the law of succession").

    Unlike p +- z*sqrt(pq/n) it stays inside [0, 1] and keeps its coverage near 0 and 1.
    Raises ValueError unless 0 <= correct <= n and n >= 1.
    """
    from scipy.stats import binomtest

    _check_counts(correct, n)
    found = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p of "both are right equally often", from the questions that exactly one of them got right.

    Under the null hypothesis the discordant pairs fall either way with probability 1/2, so p is twice the smaller
    binomial tail, at most 1 (McNemar 1947; exact form: Fay 2010, "Two-sided exact tests", R Journal 2:1). 1 where
    there are none.
    """
    from scipy.stats import binomtest

    if only_first < 0 or only_second < 0:
        raise ValueError(f"discordant counts cannot be negative: {only_first}, {only_second}")
    discordant = only_first + only_second
    return float(binomtest(min(only_first, only_second), discordant, 0.5).pvalue) if discordant else 1.0


def binomial_test(correct: int, n: int, p: float, alternative: Literal["greater", "two-sided"] = "greater") -> float:
    """Exact p-value of `correct` successes in `n` trials of probability `p` (Clopper & Pearson 1934).

    `greater` is P(X >= correct); `two-sided` adds up every outcome no likelier than the observed one, as R's
    `binom.test` does. Raises ValueError for counts out of range or a `p` outside (0, 1).
    """
    from scipy.stats import binomtest

    _check_counts(correct, n)
    if not 0 < p < 1:
        raise ValueError(f"p must lie strictly between 0 and 1, got {p}")
    return float(binomtest(correct, n, p, alternative).pvalue)


def paired_bootstrap_interval(
    only_first: int, only_second: int, n: int, *, seed: int, resamples: int = RESAMPLES, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of accuracy(second) - accuracy(first) on the same `n` questions (Efron 1979).

    A question contributes +1, 0 or -1, so resampling questions with replacement is one multinomial draw over the
    three outcomes; nothing is lost by knowing only the counts. Exchanging first and second exchanges the bounds with
    the opposite sign.
    """
    if only_first < 0 or only_second < 0 or only_first + only_second > n or n < 1:
        raise ValueError(f"{only_first} + {only_second} discordant questions do not fit into n = {n}")
    if only_first > only_second:
        lo, hi = paired_bootstrap_interval(
            only_second, only_first, n, seed=seed, resamples=resamples, confidence=confidence
        )
        return -hi, -lo
    outcomes = np.array([only_first, n - only_first - only_second, only_second]) / n
    draws = np.random.default_rng(seed).multinomial(n, outcomes, size=resamples)
    return _percentiles((draws[:, 2] - draws[:, 0]) / n, confidence, symmetric=only_first == only_second)


def paired_permutation_test(differences: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> float:
    """Two-sided p of "which of the two gave which result is a matter of chance", from the differences of paired means.

    Flips the signs of the differences, one for each question (Fisher 1935, "The Design of Experiments", section 21):
    in all ways where these are at most `resamples`, else in `resamples` random ways, of which the one observed is
    counted as one more, so that p is never 0 (Phipson & Smyth 2010). Questions without a difference change nothing
    and are left out. Raises ValueError without differences.
    """
    from scipy.stats import permutation_test

    found = _differences(differences)
    if not (found := found[found != 0]).size:
        return 1.0
    if found.size == 1:  # SciPy wants two; both signs are as far from zero as each other
        return 1.0
    done = permutation_test(
        (found,), _mean, permutation_type="samples", n_resamples=resamples, vectorized=True,
        batch=max(1, 4_000_000 // found.size), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(done.pvalue)


def paired_mean_interval(
    differences: Sequence[float], *, seed: int, resamples: int = RESAMPLES, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean difference; questions are drawn, each with all of its answers.

    `paired_bootstrap_interval` for means of several answers: one multinomial draw over the differences that occur, of
    which k samples allow 2k + 1 (Efron 1979). Differences of the opposite sign have the opposite interval. Raises
    ValueError without differences.
    """
    found = np.sort(_differences(differences))
    opposite = -found[::-1]
    # Both signs of the same differences are resampled in one of their two forms, that with the positive mean.
    if (math.fsum(found), found.tolist()) < (math.fsum(opposite), opposite.tolist()):
        lo, hi = paired_mean_interval(opposite.tolist(), seed=seed, resamples=resamples, confidence=confidence)
        return -hi, -lo
    values, counts = np.unique(found, return_counts=True)
    rng, shares, at_once = np.random.default_rng(seed), counts / found.size, max(1, 4_000_000 // values.size)
    sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    means = np.concatenate([rng.multinomial(found.size, shares, size=size) @ values for size in sizes]) / found.size
    return _percentiles(means, confidence, symmetric=bool(np.array_equal(found, opposite)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the chance of one false finding among them all stays at the level (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1, is at least the one before it and at most 1. In the given order.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the expected share of false findings among all findings stays at the level (Benjamini &
    Hochberg 1995). In the given order.
    """
    from scipy.stats import false_discovery_control

    return false_discovery_control(p_values).tolist() if p_values else []


def uniformity(counts: Sequence[int]) -> Uniformity:
    """Pearson's chi-square test of equal frequencies (1900), and Cramér's V = sqrt(chi2 / (n (k - 1))) (1946).

    Raises ValueError for fewer than two counts, or if all are 0.
    """
    from scipy.stats import chisquare

    if len(counts) < 2 or min(counts) < 0 or not (n := sum(counts)):
        raise ValueError(f"need two or more counts, none negative and not all 0, got {list(counts)}")
    found = chisquare(counts)
    chi2 = float(found.statistic)
    return Uniformity(chi2, float(found.pvalue), math.sqrt(chi2 / (n * (len(counts) - 1))))


def cochran_q(right_QK: Sequence[Sequence[bool]]) -> CochranQ:
    """Whether K ways of asking the same Q questions have the same accuracy (Cochran 1950, "The comparison of
    percentages in matched samples", Biometrika 37:256).

    Q = (K - 1) (K sum G^2 - T^2) / (K T - sum L^2), with G the right answers of each way, L those of each question and
    T all of them; chi-square with K - 1 degrees of freedom under the null hypothesis. Questions that are right, or
    wrong, in every way do not change it; if there are no others, Q is 0 and p is 1. Raises ValueError without
    questions, for fewer than two ways, or if their numbers differ.
    """
    from scipy.stats import chi2

    widths = {len(right_K) for right_K in right_QK}
    if len(widths) != 1 or (k := widths.pop()) < 2:
        raise ValueError(f"need questions with as many answers each, at least two; found {sorted(widths)}")
    by_way = [sum(column) for column in zip(*right_QK, strict=True)]
    by_question = [sum(right_K) for right_K in right_QK]
    total = sum(by_way)
    if not (spread := k * total - sum(x * x for x in by_question)):
        return CochranQ(0.0, 1.0)
    q = (k - 1) * (k * sum(x * x for x in by_way) - total * total) / spread
    return CochranQ(q, float(chi2.sf(q, k - 1)))


def centered_mean_interval(tasks: Sequence[tuple[float, int, float]]) -> tuple[float, float]:
    """95 % interval of the mean of (accuracy - baseline) / (1 - baseline) over tasks, from their binomial errors.

    `tasks` has the accuracy, the number of questions and the baseline of each, which is below 1. Two right and two
    wrong answers are added to each (Agresti & Coull 1998), because an observed accuracy of 0 or 1 is not certain.
    The lower bound is not clipped; the upper is at most 1.
    """
    if not tasks:
        raise ValueError("no tasks: there is no mean")
    value = sum((accuracy - baseline) / (1 - baseline) for accuracy, _, baseline in tasks) / len(tasks)
    variance = 0.0
    for accuracy, n, baseline in tasks:
        p = (accuracy * n + 2) / (n + 4)
        variance += p * (1 - p) / (n + 4) / (1 - baseline) ** 2
    half = normal_quantile(0.975) * math.sqrt(variance) / len(tasks)
    return value - half, min(1.0, value + half)


def p_text(p: float, name: str = "") -> str:
    """A p-value with two digits, as "0.031" or "< 1e-300"; with the name of the test as "name = 0.031"."""
    if p < SMALLEST_P:
        return f"{name} < {SMALLEST_P:.0e}".strip()
    return f"{name} = {p:.2g}" if name else f"{p:.2g}"


def normal_quantile(probability: float) -> float:
    """The value that a standard normal variable stays under with this probability."""
    return NormalDist().inv_cdf(probability)


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


def _check_counts(correct: int, n: int) -> None:
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"need 0 <= correct <= n and n >= 1, got {correct} of {n}")


def _differences(differences: Sequence[float]) -> NDArray[np.float64]:
    if not len(differences):
        raise ValueError("no questions: there are no differences")
    return np.asarray(differences, dtype=np.float64)


def _percentiles(values: NDArray[np.float64], confidence: float, symmetric: bool) -> tuple[float, float]:
    """The percentile interval; of a distribution that is known to be symmetric around 0, made so."""
    lo, hi = map(float, np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2]))
    return ((lo - hi) / 2, (hi - lo) / 2) if symmetric else (lo, hi)


def _mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return values.mean(axis=axis)
