"""Code tasks that a profile defines: a function to write, and tests that it must pass in the sandbox."""

from __future__ import annotations

import ast

from aquarat_core.config import TaskDefinition
from aquarat_core.errors import DataError
from aquarat_core.tasks.code import CodeProblem, CodeTask
from aquarat_core.tasks.defined import Facts
from aquarat_core.tasks.humaneval import asked, fenced
from aquarat_core.tasks.source import Row, text_of
from aquarat_core.tasks.task import Example


class DefinedCodeTask(CodeTask):
    """A function that passes the tests of its row."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def code(name: str, definition: TaskDefinition, facts: Facts) -> DefinedCodeTask:
    del definition, facts
    return DefinedCodeTask(name)


def program_example(row: Row, name: str) -> Example[CodeProblem]:
    """A row with `prompt`, `entry_point`, `test` and perhaps `solution`, which goes on from the prompt or is the whole
    function, as in HumanEval. Nothing of it is run.

    Raises `DataError` for what is no Python, a test without `check(candidate)`, or a solution without the function.
    """
    problem: CodeProblem = {
        "prompt": text_of(row, "prompt"),
        "entry_point": text_of(row, "entry_point"),
        "test": text_of(row, "test"),
    }
    if not problem["entry_point"].isidentifier():
        raise DataError(f"entry_point {problem['entry_point'][:80]!r} is no name of a function")
    _functions("prompt", problem["prompt"])
    if "check" not in _functions("test", problem["test"]):
        raise DataError("test defines no function check(candidate)")
    if row.get("solution") is None:
        return Example(name, (asked(problem["prompt"]),), None, problem, "")
    solution = text_of(row, "solution").rstrip()
    whole = f"def {problem['entry_point']}(" in solution
    program = solution if whole else problem["prompt"] + solution
    if problem["entry_point"] not in _functions("solution", program):
        raise DataError(f"solution does not define {problem['entry_point']}")
    return Example(name, (asked(problem["prompt"]),), fenced(program), problem, program)


def _functions(column: str, text: str) -> set[str]:
    """The names of the functions that a text defines at its top level. Raises `DataError` for one that is no Python."""
    try:
        found = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise DataError(f"{column} is no Python: {str(e)[:200]}") from None
    return {node.name for node in found if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
