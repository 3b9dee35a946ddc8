"""Rows of a user's own tasks, in the forms in which people keep them, and what is said of those that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest

from aquarat_core.config import TaskConfig, TaskDefinition
from aquarat_core.errors import DataError
from aquarat_core.rl.preflight import check_reward
from aquarat_core.tasks.defined import example_of, has_solutions, multiple_choice, numeric, short_text
from aquarat_core.tasks.task import Example, Task
from tests.factories import tokenizer

WHERE = "hf://datasets/a/b/train.jsonl"


def config(kind: str, **fields: Any) -> TaskConfig:
    return TaskConfig.model_validate({"kind": kind, "train": WHERE, **fields})


def read(row: dict[str, Any], kind: str = "multiple_choice", **fields: Any) -> Example[Any]:
    task = config(kind, **fields)
    return example_of(row, "row", task, has_solutions(row, task))


def row(answer: Any, options: Any = ("3 km", "4 km", "5 km", "6 km"), **others: Any) -> dict[str, Any]:
    return {"question": "How far?", "options": list(options) if isinstance(options, tuple) else options,
            "answer": answer, **others}  # fmt: skip


@pytest.mark.parametrize(
    "answer", ["C", "c", "(c)", "C.", "c)", "[C]", "5 km", " 5 km ", "(c) 5 km", "C. 5 km", 2, "2"]
)
def test_an_answer_is_a_letter_a_text_or_a_number_from_zero(answer: Any) -> None:
    assert read(row(answer)).reference == "C"


def test_a_number_may_count_from_one() -> None:
    assert read(row(3), first_option=1).reference == read(row("3"), first_option=1).reference == "C"


def test_the_text_of_an_option_wins_over_its_place() -> None:
    """Of the options 3, 2, 1, 0 the answer "2" is the second one; the number 2 is the third."""
    assert read(row("2", ("3", "2", "1", "0"))).reference == "B"
    assert read(row(2, ("3", "2", "1", "0"))).reference == "C"


@pytest.mark.parametrize(
    "options",
    [
        ("a) 3 km", "b) 4 km", "c) 5 km", "d) 6 km"),
        ("(A) 3 km", "(B) 4 km", "(C) 5 km", "(D) 6 km"),
        {"A": "3 km", "B": "4 km", "C": "5 km", "D": "6 km"},
        {"label": ["1", "2", "3", "4"], "text": ["3 km", "4 km", "5 km", "6 km"]},
        '["3 km", "4 km", "5 km", "6 km"]',
    ],
)
def test_options_lose_their_letters(options: Any) -> None:
    example = read(row("5 km", options))
    assert example.choices == ("3 km", "4 km", "5 km", "6 km")
    assert example.reference == "C"
    assert "5 km = C\n" in example.prompt


def test_labels_of_the_data_set_name_the_answer() -> None:
    labelled = {"label": ["1", "2", "3", "4"], "text": ["3 km", "4 km", "5 km", "6 km"]}
    assert read(row("3", labelled)).reference == read(row(3, labelled)).reference == "C"


def test_options_that_only_look_lettered_stay() -> None:
    assert read(row("A. Smith", ("A. Smith", "C. Jones"))).choices == ("A. Smith", "C. Jones")


def test_columns_have_other_names_and_options_may_be_several() -> None:
    theirs = {"stem": "How far?", "o1": "3 km", "o2": "5 km", "key": "b", "explanation": "2 + 3 = 5.", "nr": 17}
    columns = {"question": "stem", "options": ["o1", "o2"], "answer": "key", "rationale": "explanation", "id": "nr"}
    example = read(theirs, columns=columns)
    assert (example.id, example.choices, example.reference) == ("17", ("3 km", "5 km"), "B")
    assert example.target == "2 + 3 = 5.\n5 km = B\nAnswer: B"


def test_the_instruction_is_the_same_whether_or_not_a_row_has_its_solution() -> None:
    task = config("multiple_choice")
    with_one, without = (example_of(row("C", rationale=text), "row", task, True) for text in ("2 + 3 = 5.", None))
    assert with_one.messages == without.messages
    assert without.target == "Answer: C"


def test_a_solution_states_no_answer_of_its_own() -> None:
    assert read(row("C", rationale="2 + 3 = 5.\nAnswer: C")).target == "2 + 3 = 5.\n5 km = C\nAnswer: C"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row("E"), "the answer 'E' does not match any option: it should be one of 4 options"),
        (row(4), "the answer '4' does not match any option"),
        (row("7 km"), "the answer '7 km' does not match any option"),
        (row(None), "the answer is missing"),
        (row(True), "the answer is True"),
        (row(2.0), "the answer is 2.0"),
        (row("A", ("3 km",)), "1 options: a question must have 2 to 26"),
        (row("A", tuple(map(str, range(27)))), "27 options"),
        (row("A", ("3 km", "3 km")), "two options are the same"),
        (row("A", ("3 km", None)), "an option is None"),
        (row("A", ("3 km", float("nan"))), "an option is nan"),
        (row("A", {"label": None, "text": ["3 km", "4 km"]}), "label and text of the options should be lists"),
        (row("A", {"label": ["A"], "text": ["3 km", "4 km"]}), "label and text of the options should be lists"),
        (row("A", "3 km"), "the options are '3 km' but should be a list"),
        ({"question": "?", "answer": "A", "options": None}, "the options are None"),
        ({"question": None, "options": ["1", "2"], "answer": "A"}, "question is null"),
        ({"question": "?", "answer": "A"}, "there is no column 'options'; there are question, answer."),
        (row("C", rationale=5), "rationale is an integer instead of a text"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(bad)
    assert said in str(caught.value)


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(DataError, match=r"no column 'stem' \(columns.question\); there are question, options, answer"):
        read(row("C"), columns={"question": "stem"})
    with pytest.raises(
        DataError, match=r"no column 'answer'; there are question, gold\. .* in tasks\.\w+\.columns, as in"
    ):
        read({"question": "?", "gold": "Rome"}, kind="short_text")


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (72, "72"),
        ("72", "72"),
        ("1,200", "1200"),
        (-5, "-5"),
        (0.5, "0.5"),
        (72.0, "72"),
        ("3.50", "3.5"),
        (1e-7, "0.0000001"),
        (1e21, None),
    ],
)
def test_numbers_are_shown_in_one_way(answer: Any, reference: str | None) -> None:
    if reference is None:
        reference = "1" + 21 * "0"
    assert read({"question": "?", "answer": answer}, "numeric").reference == reference


@pytest.mark.parametrize("answer", ["72 clips", "$72", "72%", "1/2", "7,2", "", None, True, float("nan"), [72], "٧٢"])
def test_what_is_no_number_is_a_bad_row(answer: Any) -> None:
    with pytest.raises(DataError, match="answer"):
        read({"question": "?", "answer": answer}, "numeric")


@pytest.mark.parametrize(
    ("tolerance", "text", "correct"),
    [(0, "#### 100", True), (0, "#### 100.0", True), (0, "#### 101", False), (0.01, "#### 101", True),
     (0.01, "#### 99", True), (0.01, "#### 98.9", False), (0.01, "#### -100", False)],
)  # fmt: skip
def test_a_tolerance_is_a_share_of_the_right_number(tolerance: float, text: str, correct: bool) -> None:
    task = numeric("n", TaskDefinition(kind="numeric", tolerance=tolerance), {})
    assert task.grade(read({"question": "?", "answer": 100}, "numeric"), text, True).correct is correct


@pytest.mark.parametrize("answer", ["1" + 29 * "0", "9" * 30, "-" + "9" * 29, "0"])
def test_a_wrong_number_is_wrong_however_long_the_right_one_is(answer: str) -> None:
    task = numeric("n", TaskDefinition(kind="numeric"), {})
    example = read({"question": "?", "answer": answer}, "numeric")
    assert task.grade(example, f"#### {answer}", True).correct
    assert not task.grade(example, task.worthless(example)["wrong answers"].text, True).correct


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("Answer: Paris", True), ("Answer: paris.", True), ("It is so.\nAnswer:  PARIS \n", True),
        ("Answer: City of Light", True), ("Paris", False), ("Answer: Paris or Rome", False),
        ("Answer: Paris\nAnswer: Paris", False), ("answer: Paris", False), ("Answer: Paris\nThat is all.", False),
        ("Answer:Paris", False), ("Answer: ", False),
    ],
)  # fmt: skip
def test_a_short_text_is_compared_without_case_and_spacing(text: str, correct: bool) -> None:
    task = short_text("t", TaskDefinition(kind="short_text"), {})
    example = read({"question": "Capital?", "answer": ["Paris", "city of  light"]}, "short_text")
    assert task.grade(example, text, True).correct is correct
    assert not task.grade(example, text, False).correct


TASKS: list[tuple[Task[Any], list[Example[Any]]]] = [
    (
        multiple_choice("mc", TaskDefinition(kind="multiple_choice"), {"letters": 4}),
        [read(row(i % 4, rationale=f"{i} is right.", id=i)) for i in range(40)],
    ),
    (
        numeric("n", TaskDefinition(kind="numeric", tolerance=0.02), {}),
        [read({"question": f"{i}?", "answer": i, "rationale": f"It is {i}.", "id": i}, "numeric") for i in range(40)],
    ),
    (
        short_text("t", TaskDefinition(kind="short_text"), {}),
        [read({"question": f"{i}?", "answer": f"name {i}", "id": i}, "short_text") for i in range(40)],
    ),
]


@pytest.mark.parametrize(("task", "examples"), TASKS, ids=[task.name for task, _ in TASKS])
def test_the_grade_pays_targets_and_nothing_worthless(task: Task[Any], examples: list[Example[Any]]) -> None:
    check_reward(task, examples, tokenizer())


def test_a_choice_is_shown_in_another_order_with_its_letter() -> None:
    task, examples = TASKS[0]
    shown = {task.shown(examples[2], seed).choices for seed in range(200)}
    assert len(shown) == 24
    moved = next(e for e in (task.shown(examples[2], seed) for seed in range(200)) if e.reference != "C")
    assert moved.choices["ABCD".index(moved.reference)] == "5 km"
    assert task.grade(moved, moved.conversation()[-1]["content"], True).correct
    assert task.chance(moved) == 0.25


def test_options_that_refer_to_others_keep_their_order() -> None:
    task, _ = TASKS[0]
    fixed = read(row("D", ("3 km", "4 km", "both A and B", "none of the above")))
    assert {task.shown(fixed, seed).choices for seed in range(50)} == {fixed.choices}
