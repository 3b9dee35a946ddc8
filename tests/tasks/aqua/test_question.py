"""AQuA questions: prompt and target text, permutation of options, Parquet round trip."""

from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aquarat_core.errors import DataError
from aquarat_core.tasks.aqua.files import read_questions, write_questions
from aquarat_core.tasks.aqua.question import (
    LETTERS,
    Question,
    conversation,
    permute,
    prompt,
    target,
)
from aquarat_core.tasks.option_order import keeps_order, letter_free

DISTANCES = ("25 km", "50 km", "75 km", "100 km", "52 km")
TRAIN = Question("t1", "How far in 2 hours at 50 km/h?", DISTANCES, "2 * 50 = 100.", "D")


def test_prompt_and_target_are_these_texts() -> None:
    asked = (
        "How far in 2 hours at 50 km/h?\n25 km = A\n50 km = B\n75 km = C\n100 km = D\n52 km = E\n"
        'Reason step by step. Repeat the right option, then end with "Answer: " and its letter.'
    )
    assert prompt(TRAIN) == asked
    assert target(TRAIN) == "2 * 50 = 100.\n100 km = D\nAnswer: D"
    assert target(replace(TRAIN, rationale="")) == "Answer: D"
    assert conversation(TRAIN) == [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "2 * 50 = 100.\n100 km = D\nAnswer: D"},
    ]


def test_permute_moves_the_letter_with_its_option() -> None:
    for seed in range(200):
        p = permute(TRAIN, seed)
        assert sorted(p.options) == sorted(TRAIN.options)
        assert p.options[LETTERS.index(p.correct)] == "100 km"
        assert (p.id, p.question, p.rationale) == (TRAIN.id, TRAIN.question, TRAIN.rationale)


def test_permute_depends_on_seed_and_id_alone_and_this_order_stays() -> None:
    assert permute(TRAIN, 7) == permute(replace(TRAIN), 7)
    assert permute(TRAIN, 7).options != permute(replace(TRAIN, id="t2"), 7).options
    assert permute(replace(TRAIN, id="x"), 0).options == ("100 km", "75 km", "52 km", "50 km", "25 km")


def test_permute_is_uniform() -> None:
    orders = Counter(permute(TRAIN, seed).options for seed in range(12_000))
    assert len(orders) == 120
    chi2 = sum((n - 100) ** 2 / 100 for n in orders.values())
    assert chi2 < 173  # the 99.9 % point for 119 degrees of freedom


REFERRING = [
    "None of the above", "All of the above", "Both A and B", "A & C", "B or D", "All the above value",
    "None of these above", "None above", "Both (A) and (B)", "Neither A nor B", "A/B", "Only A", "Same as D",
    "both a and b", "Options 1 and 2", "(A) only", "Either (a) or (b)", "All except C", "None of the other options",
    "More than one of these", "Option 3", "all above", "Both", "Neither", "Neither of them", "both of these", "Either",
    "All", "All of them", "all of these", "Any of these", "Each of these", "All are correct", "all true", "All five",
    "Everything", "Nothing of the kind", "The first two", "last three", "the first and the third", "1st and 2nd",
    "First or second", "only the last", "first one", "The former", "the latter", "Others", "The other two",
    "No correct option", "every one", "No answer", "None is correct", "None but the first", "none of those given here",
    "Not listed", "not given", "At least two of them", "but (c)", "Not the last option", "second only",
]  # fmt: skip


@pytest.mark.parametrize("option", REFERRING)
def test_options_that_name_others_keep_their_place(option: str) -> None:
    q = replace(TRAIN, options=("1", "2", "3", "4", option))
    assert {permute(q, seed) for seed in range(50)} == {q}


@pytest.mark.parametrize(
    "option",
    [
        "a + b",
        "a/b",
        "2a - b",
        "(a + b)/c",
        "A + B",
        "1 hour and 31 minutes",
        "I only",
        "16 second",
        "Cannot be determined",
        "2 only",
        "1st",
        "Three",
        "Less than 3",
    ],
)
def test_formulas_and_plain_words_may_move(option: str) -> None:
    q = replace(TRAIN, options=("1", "2", "3", "4", option))
    assert len({permute(q, seed).options.index(option) for seed in range(100)}) == 5


@pytest.mark.parametrize("option", ["None of these", "none", "None.", "NONE OF THEM"])
def test_what_holds_in_any_order_may_move(option: str) -> None:
    q = replace(TRAIN, options=("1", "2", "3", "4", option))
    assert {permute(q, seed).options.index(option) for seed in range(100)} == set(range(5))


@pytest.mark.parametrize("part", ["only A ", "none of ", "the first ", "((((", "A , ", "not the last;;", ". "])
def test_the_order_of_the_longest_options_is_settled_in_linear_time(part: str) -> None:
    """In time that grows with the square this would take hours."""
    assert keeps_order([part * (400_000 // len(part)) + "x"]) in (True, False)


@pytest.mark.parametrize(
    ("rationale", "free"),
    [
        ("2 + 2 = 4.", True),
        ("5C2 = 10 and ABC is a triangle", True),
        ("a man walks; he adds", True),
        ("", True),
        ("So the answer is C", False),
        ("B) is wrong", False),
        ("option 3 fits", False),
        ("Only the last choice is even", False),
        ("(d) is left", False),
        ("A does it in 10 days", False),
    ],
)
def test_letter_free(rationale: str, free: bool) -> None:
    assert letter_free(rationale, 5) is free


def test_questions_survive_parquet(tmp_path) -> None:
    rows = [TRAIN, replace(TRAIN, id="t2", question="½ of x²?", rationale="", correct="A", family="speed", level=2)]
    write_questions(tmp_path / "q.parquet", rows)
    assert read_questions(tmp_path / "q.parquet") == rows
    first = (tmp_path / "q.parquet").read_bytes()
    write_questions(tmp_path / "q.parquet", rows)
    assert (tmp_path / "q.parquet").read_bytes() == first


def test_a_table_of_something_else_is_an_error(tmp_path) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / "q.parquet")
    with pytest.raises(DataError, match="no column correct, family, level, options, question, rationale"):
        read_questions(tmp_path / "q.parquet")
