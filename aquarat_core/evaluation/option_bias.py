"""Whether the order of options decides answers: accuracy by place, agreement over rotations, bias of places.

A question with L options is asked under its L cyclic rotations, so that each option stands once in each place (Zheng et
al. 2024, "Large language models are not robust multiple choice selectors", arXiv 2309.03882; Pezeshkpour & Hruschka
2023, arXiv 2308.11483). Suffixes name axes: Q questions, R rotations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from aquarat_core.evaluation.statistics import RESAMPLES, uniformity, wilson_interval


class PlaceAccuracy(NamedTuple):
    """Answers to questions whose right option stands in one place, and the accuracy with its 95 % interval."""

    place: int
    n: int
    correct: int
    accuracy: float
    lo: float
    hi: float


class Consistency(NamedTuple):
    """How many of `n` questions got the same content under every rotation, with the share's 95 % interval."""

    n: int
    same: int
    share: float
    lo: float
    hi: float
    agreement: float
    """Share of the pairs of rotations of a question that agree, averaged over questions."""


class PlaceBias(NamedTuple):
    """How often each place was answered, against all places as often."""

    counts: tuple[int, ...]
    unparsed: int
    chi2: float
    cramers_v: float
    """0: all places as often; 1: always the same place."""
    p: float
    """p-value of the permutation test, which moves the counts of whole questions."""


def accuracy_by_place(gold_place: Sequence[int], correct: Sequence[bool]) -> list[PlaceAccuracy]:
    """Accuracy for each place of the right option, in the order of places; one row of answers, rotations pooled.

    Raises ValueError if there are not as many places as answers.
    """
    n = Counter(gold_place)
    right = Counter(place for place, is_right in zip(gold_place, correct, strict=True) if is_right)
    return [PlaceAccuracy(x, n[x], right[x], right[x] / n[x], *wilson_interval(right[x], n[x])) for x in sorted(n)]


def consistency(contents_QR: Sequence[Sequence[Hashable | None]]) -> Consistency:
    """Share of questions answered alike by content under all rotations.

    `contents_QR` holds which option was chosen, as its text or its place in the original order; None (no parsed answer)
    agrees with nothing. Raises ValueError without questions or with fewer than two rotations of one.
    """
    if not contents_QR or min(map(len, contents_QR)) < 2:
        raise ValueError("consistency needs questions with two or more rotations each")
    same = sum(None not in contents_R and len(set(contents_R)) == 1 for contents_R in contents_QR)
    n = len(contents_QR)
    agreement = sum(map(_agreement, contents_QR)) / n
    return Consistency(n, same, same / n, *wilson_interval(same, n), agreement)


def place_bias(
    answered_QR: Sequence[Sequence[int | None]], places: int, *, seed: int, resamples: int = RESAMPLES
) -> PlaceBias | None:
    """How unevenly the places (0-based) were answered; None if nothing parsed.

    `answered_QR` holds the answered place under each rotation of a question, None if the answer did not parse.
    Pearson's chi-square against equal counts and Cramér's V describe how uneven the counts are. Chi-square's own p
    would be far too large, because the answers to one question depend on each other: whoever finds the same content
    under every rotation answers each place once. p is from a permutation test with the question as its unit: if places
    do not matter, the counts of a question are as likely with all places moved on by any number. Those of every
    question are moved by a random number, `resamples` times, and the counts that were observed are one more (Phipson &
    Smyth 2010). Equal counts are the right expectation only where the right options are spread evenly, as they are
    over all rotations of each question.
    Raises ValueError for a place outside 0..places - 1.
    """
    seen_Q = [Counter(x for x in answered_R if x is not None) for answered_R in answered_QR]
    if stray := sorted({x for seen in seen_Q for x in seen if not 0 <= x < places}):
        raise ValueError(f"places must be between 0 and {places - 1}, got {stray}")
    counts_QP = [tuple(seen[x] for x in range(places)) for seen in seen_Q]
    counts = tuple(map(sum, zip(*counts_QP, strict=True)))
    if not (parsed := sum(counts)):
        return None
    chi2, _, cramers_v = uniformity(counts)
    p = _shifted_p(counts_QP, seed, resamples)
    return PlaceBias(counts, sum(map(len, answered_QR)) - parsed, chi2, cramers_v, p)


def _shifted_p(counts_QP: Sequence[tuple[int, ...]], seed: int, resamples: int) -> float:
    """Share of random shifts of each question's counts with a chi-square at least as large as the observed one.

    The total is fixed, so chi-square grows with the sum of squares, which is a whole number and compares exactly.
    Questions with the same counts up to a shift are drawn together.
    """
    places = len(counts_QP[0])
    kinds = Counter(max(counts[x:] + counts[:x] for x in range(places)) for counts in counts_QP)
    rng, totals = np.random.default_rng(seed), np.zeros((resamples, places), dtype=np.int64)
    for kind, questions in sorted(kinds.items()):
        shifts = np.array([kind[x:] + kind[:x] for x in range(places)], dtype=np.int64)
        totals += rng.multinomial(questions, [1 / places] * places, size=resamples) @ shifts
    observed = sum(sum(column) ** 2 for column in zip(*counts_QP, strict=True))
    return (1 + int(np.count_nonzero((totals**2).sum(axis=1) >= observed))) / (1 + resamples)


def _agreement(contents_R: Sequence[Hashable | None]) -> float:
    alike = sum(math.comb(count, 2) for content, count in Counter(contents_R).items() if content is not None)
    return alike / math.comb(len(contents_R), 2)
