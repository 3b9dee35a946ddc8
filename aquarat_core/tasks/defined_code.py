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
    """Converts a row with `prompt`, `entry_point`, `test` and optionally `solution`, which continues the prompt or is
    the whole function, as in HumanEval. Runs none of it.

    Raises `DataError` for invalid Python, a test without `check(candidate)`, or a solution without the function.
    """
    problem: CodeProblem = {
        "prompt": text_of(row, "prompt"),
        "entry_point": text_of(row, "entry_point"),
        "test": text_of(row, "test"),
    }
    if not problem["entry_point"].isidentifier():
        raise DataError(f"entry_point {problem['entry_point'][:80]!r} is not a function name")
    _functions("prompt", problem["prompt"])
    if "check" not in _functions("test", problem["test"]):
        raise DataError("test does not define a function check(candidate)")
    if row.get("solution") is None:
        return Example(name, (asked(problem["prompt"]),), None, problem, "")
    solution = text_of(row, "solution").rstrip()
    whole = f"def {problem['entry_point']}(" in solution
    program = solution if whole else problem["prompt"] + solution
    if problem["entry_point"] not in _functions("solution", program):
        raise DataError(f"solution does not define {problem['entry_point']}")
    return Example(name, (asked(problem["prompt"]),), fenced(program), problem, program)


def _functions(column: str, text: str) -> set[str]:
    """Names of the functions at the text's top level. Raises `DataError` if it is not valid Python."""
    try:
        found = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise DataError(f"{column} is not valid Python: {str(e)[:200]}") from None
    return {node.name for node in found if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
