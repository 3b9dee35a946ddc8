"""Rows of a user's own code tasks, and their grade."""

from __future__ import annotations

from typing import Any

import pytest

from aquarat_core.config import TaskDefinition
from aquarat_core.errors import DataError
from aquarat_core.tasks.defined_code import code, program_example
from aquarat_core.tasks.registry import defined_task
from tests.tasks.test_humaneval import needs_sandbox

PROMPT = 'def double(x):\n    """Twice x."""\n'
ROW = {"prompt": PROMPT, "entry_point": "double", "test": "def check(f):\n    assert f(3) == 6\n",
       "solution": "    return 2 * x\n"}  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize("solution", ["    return 2 * x\n", "def double(x):\n    return x + x\n"])
def test_a_solution_goes_on_from_the_prompt_or_is_the_whole_function(solution: str) -> None:
    example = program_example(ROW | {"solution": solution}, "row")
    task = defined_task("twice", TaskDefinition(kind="code"), {})
    assert task.name == "twice" and example.target is not None
    assert task.grade(example, example.target, True).correct
    assert not task.grade(example, example.target.replace("2 * x", "x").replace("x + x", "x"), True).correct


@needs_sandbox
def test_a_row_without_a_solution_can_be_graded() -> None:
    example = program_example({name: value for name, value in ROW.items() if name != "solution"}, "row")
    assert example.target is None
    assert (
        code("twice", TaskDefinition(kind="code"), {}).grade(example, "def double(x):\n    return x * 2", True).correct
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "Write a function that doubles"}, "prompt is not valid Python: invalid syntax"),
        ({"prompt": None}, "prompt is null"),
        ({"test": "assert double(3) == 6"}, r"test does not define a function check\(candidate\)"),
        ({"test": "def check(f:"}, "test is not valid Python"),
        ({"entry_point": "double()"}, "is not a function name"),
        ({"entry_point": "triple"}, "solution does not define triple"),
        ({"solution": "  return 2 *"}, "solution is not valid Python"),
        ({"solution": 5}, "solution is an integer instead of a text"),
        ({"test": "def check(f):\n    return " + "(" * 5000}, "test is not valid Python"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        program_example(ROW | changes, "row")
