"""Whether probabilities of choices mean what they say: Brier score, log loss, reliability and calibration error.

Suffixes name axes: Q questions, L choices of a question. Questions may have different numbers of choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aquarat_core.evaluation.statistics import wilson_interval

BINS = 10
SUM_TOLERANCE = 1e-3
"""How far from 1 the probabilities of one question may add up; scores are kept as float32."""


class Bin(NamedTuple):
    """Questions of about the same confidence: their mean confidence, and their accuracy with its 95 % interval."""

    n: int
    confidence: float
    accuracy: float
    lo: float
    hi: float


class Calibrated(NamedTuple):
    """What a calibration error would be if every confidence were right: on average, and in 95 % of cases at most."""

    mean: float
    upper: float


def choice_probabilities(scores_QL: Sequence[Sequence[float]]) -> list[list[float]]:
    """Softmax of the log-probabilities of each question's choices: their probabilities given that one is chosen."""
    from scipy.special import softmax

    return [softmax(np.asarray(scores_L, dtype=np.float64)).tolist() for scores_L in scores_QL]


def brier(probabilities_QL: Sequence[Sequence[float]], gold_Q: Sequence[int]) -> float:
    """Mean squared distance of the probabilities from the truth, summed over choices: 0 is best, 2 is worst.

    The original form of Brier 1950, "Verification of forecasts expressed in terms of probability", for two choices
    twice of what is often given. Equal probabilities of L choices score 1 - 1/L. `gold_Q` has the index of each right
    choice. Raises ValueError for what are no probabilities, or a gold that is none of the choices.
    """
    _check(probabilities_QL, gold_Q)
    return float(np.mean([
        sum((p - (i == gold)) ** 2 for i, p in enumerate(probabilities_L))
        for probabilities_L, gold in zip(probabilities_QL, gold_Q, strict=True)
    ]))  # fmt: skip


def log_loss(probabilities_QL: Sequence[Sequence[float]], gold_Q: Sequence[int]) -> float:
    """Mean negative log-probability of the right choice in nats (Good 1952); equal probabilities score ln L.

    A probability of 0 counts as the smallest normal float, about 708 nats, so that the mean stays finite. Raises as
    `brier` does.
    """
    _check(probabilities_QL, gold_Q)
    smallest = float(np.finfo(np.float64).tiny)
    golds = (probabilities_L[gold] for probabilities_L, gold in zip(probabilities_QL, gold_Q, strict=True))
    return float(np.mean([-math.log(max(p, smallest)) for p in golds]))


def reliability(confidence_Q: Sequence[float], correct_Q: Sequence[bool], bins: int = BINS) -> list[Bin]:
    """Accuracy against confidence in `bins` bins of as many questions each, from the least confident to the most.

    Bins of equal mass, because a model's confidences crowd together and bins of equal width would be mostly empty
    (Nguyen & O'Connor 2015, "Posterior calibration and exploratory analysis for NLP models"). With fewer questions than
    bins every question has its own. Raises ValueError without questions or for confidences outside [0, 1].
    """
    confidence = _confidences(confidence_Q)
    correct = np.asarray(correct_Q, dtype=bool)
    if correct.shape != confidence.shape:
        raise ValueError(f"{confidence.size} confidences, but {correct.size} answers")
    found: list[Bin] = []
    for chosen in _equal_mass(confidence, bins):
        n, right = chosen.size, int(correct[chosen].sum())
        found.append(Bin(n, float(confidence[chosen].mean()), right / n, *wilson_interval(right, n)))
    return found


def expected_calibration_error(confidence_Q: Sequence[float], correct_Q: Sequence[bool], bins: int = BINS) -> float:
    """Mean of |accuracy - confidence| over `reliability`'s bins, weighted by their questions.

    Naeini, Cooper & Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning", with bins of
    equal mass. Few questions push it up by about sqrt(bins / n) even if every confidence is right: give
    `ece_if_calibrated` beside it.
    """
    found = reliability(confidence_Q, correct_Q, bins)
    return sum(b.n * abs(b.accuracy - b.confidence) for b in found) / len(confidence_Q)


def ece_if_calibrated(
    confidence_Q: Sequence[float], bins: int = BINS, *, seed: int, resamples: int = 2000
) -> Calibrated:
    """The calibration error of these confidences if they were right, simulated.

    Each answer is drawn right with its confidence as the probability (consistency resampling: Bröcker & Smith 2007,
    "Increasing the reliability of reliability diagrams"). Only an error above `upper` shows a lack of calibration.
    """
    confidence = _confidences(confidence_Q)
    members = _equal_mass(confidence, bins)
    rng = np.random.default_rng(seed)
    errors = np.zeros(resamples)
    for chosen in members:
        drawn = rng.random((resamples, chosen.size)) < confidence[chosen]
        errors += chosen.size * np.abs(drawn.mean(axis=1) - confidence[chosen].mean())
    errors /= confidence.size
    return Calibrated(float(errors.mean()), float(np.quantile(errors, 0.95)))


def _equal_mass(confidence: NDArray[np.float64], bins: int) -> list[NDArray[np.intp]]:
    """Indices of the questions of each bin; none is empty. Equal confidences are split in the order of questions."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    order = np.argsort(confidence, kind="stable")
    return np.array_split(order, min(bins, confidence.size))


def _confidences(confidence_Q: Sequence[float]) -> NDArray[np.float64]:
    confidence = np.asarray(confidence_Q, dtype=np.float64)
    if not confidence.size:
        raise ValueError("no questions: there is nothing to calibrate")
    if not ((confidence >= 0) & (confidence <= 1 + SUM_TOLERANCE)).all():
        raise ValueError("a confidence must be in [0, 1]")
    return np.minimum(confidence, 1.0)


def _check(probabilities_QL: Sequence[Sequence[float]], gold_Q: Sequence[int]) -> None:
    if not probabilities_QL or len(probabilities_QL) != len(gold_Q):
        raise ValueError(f"need questions, each with its gold: got {len(probabilities_QL)} and {len(gold_Q)}")
    for number, (probabilities_L, gold) in enumerate(zip(probabilities_QL, gold_Q, strict=True)):
        if min(probabilities_L, default=-1) < 0 or not abs(sum(probabilities_L) - 1) <= SUM_TOLERANCE:
            raise ValueError(f"question {number}: {list(probabilities_L)} are no probabilities that add up to 1")
        if not 0 <= gold < len(probabilities_L):
            raise ValueError(f"question {number}: gold {gold} is none of its {len(probabilities_L)} choices")
