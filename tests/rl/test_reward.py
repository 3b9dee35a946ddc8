"""What a completion earns."""

from __future__ import annotations

import pytest

from aquarat_core.rl.reward import with_format_bonus
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.aqua.task import AquaTask, to_example

EXAMPLE = to_example(Question("q", "What is 2 + 3?", ("3", "4", "5", "6", "7"), "2 + 3 = 5.", "C"))


@pytest.mark.parametrize(
    ("text", "ended", "letter", "reward"),
    [
        ("2 + 3 = 5.\nAnswer: C", True, "C", 1.0),
        ("Answer: C", True, "C", 1.0),
        ("Answer: B", True, "B", 0.0),
        ("Answer: C", False, None, 0.0),  # cut off: who knows what else it would have said
        ("Answer: A\nAnswer: C", True, None, 0.0),
        ("Answer: C\nAnswer: C", True, None, 0.0),
        ("Answer: C, I think", True, None, 0.0),
        ("answer: C", True, None, 0.0),
        ("C", True, None, 0.0),
        ("", True, None, 0.0),
    ],
)
def test_one_right_letter_at_the_end_and_nothing_else_is_paid(
    text: str, ended: bool, letter: str | None, reward: float
) -> None:
    grade = AquaTask().grade(EXAMPLE, text, ended)
    assert (grade.answer, grade.reward, grade.correct) == (letter, reward, reward == 1.0)


def test_form_is_paid_only_where_the_config_asks_for_it() -> None:
    task = AquaTask()
    assert with_format_bonus(task.grade, 0.0) == task.grade
    paid = with_format_bonus(task.grade, 0.1)
    answers = ("Answer: C", "Answer: B", "C", "Answer: C\nAnswer: C")
    assert [paid(EXAMPLE, text, True).reward for text in answers] == [1.1, 0.1, 0.0, 0.0]
    assert paid(EXAMPLE, "Answer: C", False).reward == 0.0


def test_a_second_announcement_is_noted() -> None:
    texts = ("Answer: C", "answer: A\nAnswer: C", "no answer: none\nAnswer: B")
    assert [AquaTask().grade(EXAMPLE, text, True).notes["ambiguous"] for text in texts] == [0.0, 1.0, 1.0]
