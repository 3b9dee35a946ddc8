"""Setting questions aside: the questions alone decide, and near duplicates stay together."""

import random

import pytest

from aquarat_core.errors import DataError
from aquarat_core.tasks.aqua.holdout import set_aside
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.duplicates import HeldOut

THINGS = ("apples", "boats", "coins", "doors", "eggs", "forks", "gates", "hats", "inks", "jars", "kites", "lamps")


def question(n: int, thing: str, words: str = "") -> Question:
    text = f"{thing} cost {n} cents and {thing} weigh {n + 1} grams, how many {thing} make {n * 7} {thing}{words}?"
    return Question(f"q-{thing}-{n}{words}", text, tuple("12345"), "r", "A")


def questions() -> list[Question]:
    """Twelve things, each asked twice with other numbers and once with other words."""
    return [q for t in THINGS for q in (question(2, t), question(3, t), question(2, t, " in all"))]


def test_groups_stay_together() -> None:
    found = set_aside(questions(), 10)
    assert len(found.holdout) == 9 and len(found.train) == 27, "three whole groups of three fit into ten"
    assert (found.groups, found.largest_group) == (12, 3)
    index = HeldOut({q.id: q.question for q in found.holdout})
    assert not any(index.find(q.question) for q in found.train)


def test_neither_order_nor_other_rows_change_which() -> None:
    rows = questions()
    some = {q.id for q in set_aside(rows, 9).holdout}
    shuffled = random.Random(1).sample(rows, len(rows))
    assert [q.id for q in set_aside(shuffled, 9).holdout] == [q.id for q in set_aside(rows, 9).holdout]
    assert some < {q.id for q in set_aside(rows, 15).holdout}, "more are the same and others"
    other = {q.question.split()[0] for q in set_aside([q for q in rows if "boats" not in q.id], 9).holdout}
    mine = {q.question.split()[0] for q in set_aside(rows, 9).holdout}
    assert len(mine & other) >= 2, "without one group at most one other moves up"


def test_what_cannot_be_set_aside() -> None:
    with pytest.raises(DataError, match=r"n_holdout 19 is more than half of the 36"):
        set_aside(questions(), 19)
    with pytest.raises(DataError, match=r"n_holdout 2 is smaller than every group"):
        set_aside(questions(), 2)
