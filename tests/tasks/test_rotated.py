"""Options moved on cyclically: the right letter moves along, and options that refer to each other stay."""

from __future__ import annotations

import pytest

from aquarat_core.config import TaskDefinition
from aquarat_core.evaluation.protocols.rotating import rotations
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.aqua.task import AquaTask, to_example
from aquarat_core.tasks.multiple_choice import MultipleChoiceTask, choice_example
from aquarat_core.tasks.own_code import OwnTask, TaskCodeError, own_task
from aquarat_core.tasks.registry import load_task

THREE = MultipleChoiceTask("three", 5)


def example(options: list[str], correct: int = 0):
    return choice_example("q1", {"question": "Which?", "options": options, "correct": correct, "rationale": None})


def test_every_option_stands_once_in_each_place() -> None:
    shown = rotations(THREE, example(["red", "green", "blue"], 1))
    assert [e.choices for e in shown] == [("red", "green", "blue"), ("blue", "red", "green"), ("green", "blue", "red")]
    assert [e.reference for e in shown] == ["B", "C", "A"]
    assert all(e.choices["ABC".index(e.reference)] == "green" and e.target == f"Answer: {e.reference}" for e in shown)
    assert all(f"green = {e.reference}" in e.prompt for e in shown)


def test_options_that_refer_to_each_other_are_asked_in_their_order_alone() -> None:
    kept = example(["red", "green", "both A and B"])
    assert THREE.rotated(kept, 2) == kept and rotations(THREE, kept) == [kept]


def test_aqua_rotates_its_five_options() -> None:
    task = AquaTask()
    question = to_example(Question("q", "1 + 1?", ("2", "3", "4", "5", "6"), "1 + 1 = 2.", "A"))
    assert [e.reference for e in rotations(task, question)] == list("ABCDE")
    assert task.rotated(question, 1).choices == ("6", "2", "3", "4", "5")
    fixed = to_example(Question("q", "1 + 1?", ("2", "3", "4", "5", "none of the above"), "", "A"))
    assert rotations(task, fixed) == [fixed]


def test_open_answers_have_nothing_to_rotate() -> None:
    assert load_task("gsm8k").protocols == ("greedy", "sampled")


OWN = """
from aquarat_core.tasks.multiple_choice import MultipleChoiceTask, choice_example


class Colors(MultipleChoiceTask):
    def __init__(self):
        super().__init__("colors", 3)

    def example(self, row, name):
        return choice_example(name, {"question": row["q"], "options": row["o"], "correct": row["a"], "rationale": None})
"""


def own(code: str) -> OwnTask:
    return own_task("mine", TaskDefinition(module="mine.py", code=code), {})


def test_a_module_may_support_the_protocols_of_choices() -> None:
    mine = own(OWN)
    assert "rotated" in mine.protocols
    made = mine.example({"q": "Which?", "o": ["red", "green", "blue"], "a": 2}, "r1")
    assert [e.reference for e in rotations(mine, made)] == ["C", "A", "B"]


@pytest.mark.parametrize(
    ("protocols", "said"),
    [
        ('("greedy", "gready")', "protocols names 'gready'; there are greedy, sampled"),
        ('("greedy", "letters")\n    categories = ("yes", "no")', "`categories` must be A, B, C and so on"),
    ],
)
def test_a_module_that_names_protocols_wrongly_is_told(protocols: str, said: str) -> None:
    code = OWN.replace("    def __init__", f"    protocols = {protocols}\n\n    def __init__")
    code = code.replace('        super().__init__("colors", 3)', "        pass") if "categories" in protocols else code
    with pytest.raises(TaskCodeError) as caught:
        own(code)
    assert said in str(caught.value)


def test_a_module_that_cannot_rotate_is_told() -> None:
    code = """
from aquarat_core.tasks.task import Example, Task


class Plain(Task):
    answer_form = "a letter"
    categories = ("A", "B")
    protocols = ("greedy", "rotated")

    def example(self, row, name): ...
    def grade(self, example, completion, ended): ...
    def answer_text(self, answer): ...
    def worthless(self, example): ...
"""
    with pytest.raises(TaskCodeError, match="protocols names 'rotated', and the class does not define it"):
        own(code)
