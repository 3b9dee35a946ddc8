"""A task in a Python file of the user's: what it may be, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aquarat_core.config import ConfigError, TaskConfig, TaskDefinition, load_profile
from aquarat_core.stages.task_rows import read_task
from aquarat_core.tasks.own_code import OwnTask, TaskCodeError, own_task
from aquarat_core.tasks.task import Grade

GOOD = '''
from dataclasses import dataclass

from aquarat_core.conversation import user_message
from aquarat_core.errors import DataError
from aquarat_core.tasks.task import Attempt, Example, Grade, Task


@dataclass(frozen=True)
class Limits:
    closest: float = 0.5


class Estimate(Task):
    """A number, and part of the reward for one that is near."""

    answer_form = "a number"
    notes = ("near",)

    def example(self, row, name):
        if "q" not in row:
            raise DataError("q is missing")
        return Example(name, (user_message(row["q"]),), str(row["a"]), row["a"], str(row["a"]))

    def grade(self, example, completion, ended):
        try:
            off = abs(float(completion) - example.answer)
        except ValueError:
            return Grade(0.0, False, None, {"near": 0.0})
        return Grade(max(0.0, 1.0 - off), off == 0, completion, {"near": float(off < Limits().closest)})

    def answer_text(self, answer):
        return answer

    def worthless(self, example):
        return {"wrong numbers": str(example.answer + 7), "the right ones cut off": Attempt("no number", ended=False)}
'''


def task(code: str = GOOD) -> OwnTask:
    return own_task("mine", TaskDefinition(module="mine.py", code=code), {})


def changed(old: str, new: str) -> OwnTask:
    assert old in GOOD
    return task(GOOD.replace(old, new))


ROW = {"q": "2 + 2?", "a": 4}


def test_a_module_is_a_task_under_the_profiles_name() -> None:
    mine = task()
    example = mine.example(ROW, "row-1")
    assert (mine.name, mine.notes, example.id) == ("mine", ("near",), "row-1")
    assert mine.grade(example, "4", True) == Grade(1.0, True, "4", {"near": 1.0})
    assert mine.grade(example, "4.75", True).reward == 0.25
    assert mine.worthless(example)["wrong numbers"].text == "11"
    assert (mine.chance(example), mine.shown(example, 1), mine.grading_source()) == (0.0, example, GOOD)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("from aquarat_core.errors", "from no_such_package", "does not import: line 5: ModuleNotFoundError"),
        ("closest: float = 0.5", "closest: float = 1 / 0", "does not import: line 11: ZeroDivisionError"),
        ("class Estimate(Task)", "class Estimate", "defines 0 classes that inherit from Task"),
        ("class Limits:", "class Limits(Task):", "defines 2 classes that inherit from Task (Limits, Estimate)"),
        ("def grade(", "def judge(", "class Estimate lacks grade"),
        (
            "    answer_form = ",
            "    def __init__(self, size):\n        pass\n\n    answer_form = ",
            "Estimate() failed",
        ),
    ],
)
def test_a_module_that_is_no_task_says_why(old: str, new: str, said: str) -> None:
    with pytest.raises(TaskCodeError) as caught:
        changed(old, new)
    assert "task mine, mine.py" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("grade", "said"),
    [
        ("float('nan')", "gave row-1 the reward nan, which is not a finite number"),
        ("'one'", "returned 'one' for row-1 but should return a Grade or a number"),
        ("None", "returned None for row-1"),
        ("True", "returned True for row-1"),
        ("2.0", "gave row-1 the reward 2.0: rewards must be from -1 to 1"),
        ("Grade('1', True, None)", "gave row-1 the reward '1'"),
        ("Grade(1.0, True, 4)", "gave row-1 an answer that is not a text"),
        ("Grade(1.0, True, None, {'far': 1.0})", "gave row-1 notes far that `notes` does not name"),
        ("1 / 0", "failed for row-1: line 26: ZeroDivisionError: division by zero"),
    ],
)
def test_a_grade_that_is_none_says_for_which_example(grade: str, said: str) -> None:
    mine = changed("        try:\n            off", f"        return {grade}\n        try:\n            off")
    with pytest.raises(TaskCodeError, match=r"task mine, mine\.py: grade") as caught:
        mine.grade(mine.example(ROW, "row-1"), "4", True)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "returned None for row row-7 but should return an Example"),
        ("Example(name, (user_message('?'),), None, {1, 2}, '')", "gave row-7 an answer that is not a JSON value"),
        ("row['z']", "failed: line 21: KeyError: 'z'"),
    ],
)
def test_an_example_that_is_none_says_for_which_row(returned: str, said: str) -> None:
    mine = changed('        if "q" not in row:', f'        return {returned}\n        if "q" not in row:')
    with pytest.raises(TaskCodeError) as caught:
        mine.example(ROW, "row-7")
    assert said in str(caught.value)


def test_a_number_is_a_grade_too() -> None:
    mine = changed("        try:\n            off", "        return 1\n        try:\n            off")
    assert mine.grade(mine.example(ROW, "row-1"), "x", True) == Grade(1.0, True, None)


def test_a_profile_carries_the_text_of_the_module(tmp_path: Any) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "2 + 2?", "a": 4}\n')
    (tmp_path / "mine.py").write_text(GOOD)
    profile = tmp_path / "mine.yaml"
    profile.write_text("extends: demo\ntask: {name: mine, module: mine.py, train: rows.jsonl}\n")
    loaded = load_profile(str(profile))
    assert loaded.section("rl_checkpoint").definitions["mine"].code == GOOD
    assert loaded.section("sft_checkpoint").definitions["mine"].code is None, "SFT only reads what is stored"
    (tmp_path / "mine.py").write_text(GOOD.replace("0.5", "0.6"))
    edited = load_profile(str(profile))
    assert edited.section("rl_checkpoint") != loaded.section("rl_checkpoint")
    assert edited.section("sft_checkpoint") == loaded.section("sft_checkpoint")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "cannot be read: No such file"),
        ("def f(:\n", "line 1 is not valid Python"),
        ("x = 1\n" * 20_000, "may have at most 65,536"),
        ("\0", "is not valid Python"),
        ("x = " + "-" * 60_000 + "1", "nested too deeply"),
    ],
)
def test_a_module_that_cannot_be_read_is_refused_with_the_profile(tmp_path: Any, code: str | None, said: str) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
    (tmp_path / "mine.yaml").write_text("extends: demo\ntask: {module: mine.py, train: rows.jsonl}\n")
    with pytest.raises(ConfigError) as caught:
        load_profile(str(tmp_path / "mine.yaml"))
    assert "mine.yaml, task.module" in str(caught.value)
    assert said in str(caught.value)


def test_rows_that_the_code_fails_on_are_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "2 + 2?", "a": 4}\n{"q": "3 + 3?"}\n')
    config = TaskConfig.model_validate(
        {"name": "mine", "module": "mine.py", "code": GOOD, "train": str(tmp_path / "rows.jsonl")}
    )
    with pytest.raises(TaskCodeError, match=r"rows\.jsonl, line 2: task mine, .* line 23: KeyError: 'a'"):
        read_task(config, print)
