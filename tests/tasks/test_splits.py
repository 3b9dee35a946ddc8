"""Rows that are held out, and questions that would leak into training."""

from __future__ import annotations

from collections.abc import Sequence

from aquarat_core.conversation import user_message
from aquarat_core.tasks.splits import hold_out, question_of, sampled, without_leaks
from aquarat_core.tasks.task import Example


def examples(questions: Sequence[str]) -> list[Example[dict[str, str]]]:
    return [
        Example(f"row-{i}", (user_message(f"{q}\nOptions follow."),), "x", {"question": q}, "x")
        for i, q in enumerate(questions)
    ]


NAMED = examples(
    [f"How many {word} are {n}?" for n in range(10) for word in ("apples", "cows", "days", "gulls", "men")]
)


def test_what_is_held_out_is_about_as_much_as_was_asked_for() -> None:
    found = hold_out(NAMED, {"validation": 10, "test": 5}, seed=1)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 35, "validation": 10, "test": 5}
    assert sorted(e.id for rows in found.values() for e in rows) == sorted(e.id for e in NAMED)
    assert [e.id for e in found["train"]] == [e.id for e in NAMED if e in found["train"]]
    assert hold_out(NAMED, {"validation": 10, "test": 5}, seed=2) != found


def test_equal_questions_are_on_the_same_side() -> None:
    twice = [*NAMED, *examples([question_of(e) for e in NAMED])]
    found = hold_out(twice, {"validation": 12}, seed=1)
    sides = [{question_of(e) for e in rows} for rows in found.values()]
    assert not sides[0] & sides[1]
    assert len(found["validation"]) == 12


def test_a_rows_side_does_not_depend_on_the_rows_before_it() -> None:
    found = hold_out(NAMED, {"validation": 10}, seed=1)
    turned = hold_out(NAMED[::-1], {"validation": 10}, seed=1)
    assert {e.id for e in found["validation"]} == {e.id for e in turned["validation"]}


def test_training_loses_what_a_held_out_split_asks_word_for_word() -> None:
    held_out = examples(["How many apples are left when Tom eats 3 of 5?"])
    train = examples([
        "how many APPLES are left, when Tom eats 3 of 5",  # the same words
        "How many apples are left when Tom eats 2 of 9?",  # other numbers
        "A train goes 60 km in two hours, what is its speed?",
    ])  # fmt: skip
    kept, leaks = without_leaks({"train": train, "test": held_out})
    assert [e.id for e in kept["train"]] == ["row-1", "row-2"]
    assert (leaks.same, leaks.near) == (1, 1)
    assert leaks.named[0] == {"train": "row-0", "held_out": "test/row-0", "rule": "same_text"}
    assert kept["test"] == held_out


def test_a_sample_is_seeded_and_all_rows_keep_their_order() -> None:
    assert sampled(NAMED, None, 1) == sampled(NAMED, 50, 1) == NAMED
    assert sampled(NAMED, 5, 1) == sampled(NAMED, 5, 1) != sampled(NAMED, 5, 2)
