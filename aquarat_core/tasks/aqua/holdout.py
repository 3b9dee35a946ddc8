"""Sets questions of the training split aside for choosing between models.

The published validation and test splits have 254 questions each: too few to tell two models apart, and each look at
them makes the next result a little less true. A few thousand questions of the training split can be looked at often.

Which ones is decided by the questions alone, never by a seed or by the number of rows that are kept: groups of near
duplicates, as one, are sorted by a hash of their alphabetically first question, and taken from the beginning while they
fit. So the same rows are set aside for everybody, and training has no near duplicate of them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from aquarat_core.errors import DataError
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.duplicates import near_groups, normalized

HOLDOUT = "holdout"
"""Name of the split."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """The training split in two parts."""

    train: list[Question]
    """In the order given."""
    holdout: list[Question]
    """In the order of the hashes, so that the first ones are a random sample."""
    groups: int
    """Number of groups of near duplicates in both parts."""
    largest_group: int
    """Number of questions in the largest of them."""


def set_aside(questions: Sequence[Question], n: int) -> SetAside:
    """Sets `n` of the training questions aside, or a few less where no group is small enough for the last places.

    Raises `DataError` if that is more than half of the questions, or if their groups are too large.
    """
    if 2 * n > len(questions):
        raise DataError(
            f"aqua_dataset.n_holdout {n:,} is more than half of the {len(questions):,} training questions: lower it"
        )
    groups: defaultdict[int, list[Question]] = defaultdict(list)
    for group, q in zip(near_groups([q.question for q in questions]), questions, strict=True):
        groups[group].append(q)
    taken: list[Question] = []
    for group in sorted(groups.values(), key=_place):
        if len(taken) + len(group) <= n:
            taken += sorted(group, key=lambda q: (_digest(q.question), q.id))
    if not taken:
        raise DataError(
            f"aqua_dataset.n_holdout {n:,} is smaller than every group of near duplicates: raise it, or set it to 0"
        )
    held = {q.id for q in taken}
    return SetAside([q for q in questions if q.id not in held], taken, len(groups), max(map(len, groups.values())))


def _place(group: Sequence[Question]) -> bytes:
    return min((normalized(q.question), _digest(q.question)) for q in group)[1]


def _digest(question: str) -> bytes:
    return hashlib.blake2b(normalized(question).encode(), digest_size=16).digest()
