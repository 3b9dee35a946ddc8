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

from aquarat_core.evaluation.statistics import uniformity, wilson_interval


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
    p: float
    cramers_v: float
    """0: all places as often; 1: always the same place."""


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


def place_bias(answered: Sequence[int | None], places: int) -> PlaceBias | None:
    """Chi-square of the answered places (0-based) against uniform, with Cramér's V; None if nothing parsed.

    Uniform is the right expectation only where the right options are spread evenly, as they are over all rotations of
    each question. Answers that follow the content of a question spread over the places more evenly than guesses would,
    so p can be too large, but not too small. Raises ValueError for a place outside 0..places - 1.
    """
    seen = Counter(x for x in answered if x is not None)
    if stray := sorted(x for x in seen if not 0 <= x < places):
        raise ValueError(f"places must be between 0 and {places - 1}, got {stray}")
    if not seen:
        return None
    counts = tuple(seen[x] for x in range(places))
    return PlaceBias(counts, len(answered) - sum(counts), *uniformity(counts))


def _agreement(contents_R: Sequence[Hashable | None]) -> float:
    alike = sum(math.comb(count, 2) for content, count in Counter(contents_R).items() if content is not None)
    return alike / math.comb(len(contents_R), 2)
