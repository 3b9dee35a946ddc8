"""The smallest difference between two checkpoints that a comparison would find: the power of the paired tests.

SciPy is imported inside functions because its import takes a second.
"""

from __future__ import annotations

import math

import numpy as np

from aquarat_core.evaluation.statistics import normal_quantile

POWER = 0.8
"""The share of cases in which a detectable difference is found."""


def minimum_detectable_difference(n: int, discordance: float, power: float = POWER, alpha: float = 0.05) -> float:
    """Smallest difference of paired means that `n` questions show with this power, two-sided at `alpha`.

    `discordance` is the mean square of the differences of the questions' means; for single answers that is the share
    of questions that exactly one of the two gets right. Normal approximation with the null variance (Connor 1987,
    "Sample size for testing differences in proportions for the paired-sample design").
    """
    if n < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"need n >= 1 and a discordance in [0, 1], got n = {n}, discordance = {discordance}")
    return (normal_quantile(1 - alpha / 2) + normal_quantile(power)) * math.sqrt(discordance / n)


def detectable_by_mcnemar(n: int, discordance: float, power: float = POWER, alpha: float = 0.05) -> float | None:
    """Smallest difference of accuracies that the exact McNemar test on `n` questions finds with this power at `alpha`.

    `discordance` is the share of questions that exactly one of the two is expected to get right; where the difference
    is larger than that share, all of its questions fall to one side. The power is exact: the number of discordant
    questions is binomial, and so is how many of them fall to the better side (Connett, Smith & McHugh 1987, "Sample
    size and power for pair-matched case-control studies"). None if no difference reaches the power, as with five
    questions at 5 %, of which even one-sided flips give p = 0.0625.
    """
    if n < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"need n >= 1 and a discordance in [0, 1], got n = {n}, discordance = {discordance}")
    low, high = 0.0, 1.0
    if mcnemar_power(n, discordance, high, alpha) < power:
        return None
    while high - low > 1e-5:
        middle = (low + high) / 2
        if mcnemar_power(n, discordance, middle, alpha) < power:
            low = middle
        else:
            high = middle
    return high


def mcnemar_power(n: int, discordance: float, difference: float, alpha: float) -> float:
    """How often the exact McNemar test has p < `alpha` in favor of the better side, whose accuracy is larger by
    `difference`; `discordance` is raised to it if it is smaller."""
    from scipy.stats import binom

    discordance = max(discordance, difference)
    if not discordance:
        return 0.0
    fewest, most = (int(binom.ppf(q, n, discordance)) for q in (1e-9, 1 - 1e-9))
    found_N = np.arange(fewest, most + 1)
    # The most flips to the worse side with which twice the binomial tail is below alpha; -1 if there is no such number.
    most_N = binom.ppf(alpha / 2, found_N, 0.5) - 1
    better = (1 + difference / discordance) / 2
    power_N = binom.sf(found_N - most_N - 1, found_N, better)
    return float(np.sum(binom.pmf(found_N, n, discordance) * np.where(most_N < 0, 0.0, power_N)))


def fewest_one_sided(alpha: float) -> int:
    """The fewest questions that must all change to one side before a paired sign test has p < `alpha`.

    With m such questions p is 2 / 2^m, in the exact McNemar test as in the sign-flip permutation test.
    """
    return math.floor(math.log2(2 / alpha)) + 1
