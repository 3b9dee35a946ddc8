"""Splits of a task's examples: holds out rows if no split is published, and checks for leaks between splits.

A training question with the same words as a held-out one is left out. Questions that are only similar are counted and
named, because a data set may consist of templates with other numbers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from aquarat_core.tasks.duplicates import HeldOut
from aquarat_core.tasks.task import Example

HELD_OUT = ("validation", "test")
MAX_NAMED = 100
"""Number of similar questions that are named; further ones are only counted."""


@dataclass(slots=True)
class Leaks:
    """The overlap of the training split with the held-out ones."""

    same: int = 0
    """Training questions that were left out because a held-out question has the same words."""
    near: int = 0
    """Training questions that are similar to a held-out one but were kept."""
    named: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


def question_of(example: Example[Any]) -> str:
    """The question in an example, without its options and instruction if its task keeps them apart."""
    answer: object = example.answer
    named = isinstance(answer, Mapping)
    asked: object = cast("Any", answer).get("question") if named else getattr(cast("Any", answer), "question", None)
    return asked if isinstance(asked, str) else example.prompt


def hold_out(examples: Sequence[Example[Any]], sizes: Mapping[str, int], seed: int) -> dict[str, list[Example[Any]]]:
    """Divides `examples`: the splits in `sizes` get approximately as many, "train" the rest, each in the given order.

    The hash of a question decides, so equal questions are always in the same split, and a row's split does not depend
    on the position of other rows.
    """
    keys = {question_of(e) for e in examples}
    order = sorted(keys, key=lambda key: hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=16).digest())
    counts: dict[str, int] = dict.fromkeys(keys, 0)
    for e in examples:
        counts[question_of(e)] += 1
    split_of: dict[str, str] = {}
    wanted = [(split, n) for split, n in sizes.items() if n]
    given = 0
    for key in order:
        while wanted and given >= wanted[0][1]:
            wanted.pop(0)
            given = 0
        split_of[key] = wanted[0][0] if wanted else "train"
        given += counts[key]
    found: dict[str, list[Example[Any]]] = {split: [] for split in ("train", *sizes)}
    for e in examples:
        found[split_of[question_of(e)]].append(e)
    return found


def without_leaks(splits: dict[str, list[Example[Any]]]) -> tuple[dict[str, list[Example[Any]]], Leaks]:
    """The splits without the training questions that a held-out split repeats word for word, and the overlap."""
    leaks = Leaks()
    held = {f"{split}/{e.id}": question_of(e) for split in HELD_OUT for e in splits.get(split, ())}
    if not held:
        return splits, leaks
    held_out = HeldOut(held)
    kept: list[Example[Any]] = []
    for e in splits["train"]:
        found = held_out.find(question_of(e))
        if found is not None:
            leaks.same += found[1] == "same_text"
            leaks.near += found[1] != "same_text"
            if len(leaks.named) < MAX_NAMED:
                leaks.named.append({"train": e.id, "held_out": found[0], "rule": found[1]})
        if found is None or found[1] != "same_text":
            kept.append(e)
    return {**splits, "train": kept}, leaks


def sampled(examples: Sequence[Example[Any]], n: int | None, seed: int) -> list[Example[Any]]:
    """`n` examples in a seeded order; all in the given order if there are no more than `n`, or `n` is None."""
    if n is None or n >= len(examples):
        return list(examples)
    return random.Random(seed).sample(list(examples), n)
