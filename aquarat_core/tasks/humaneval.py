"""HumanEval: Python functions to complete (Chen et al. 2021, arXiv 2107.03374). It has no training split."""

from __future__ import annotations

from collections.abc import Mapping

from aquarat_core.conversation import Message, assistant_message, user_message
from aquarat_core.tasks.code import CodeProblem, CodeTask
from aquarat_core.tasks.source import HubSource, Row, text_of
from aquarat_core.tasks.task import Example, Origin


def conversation(row: Row) -> list[Message]:
    """The reply is the whole function, which can be run on its own."""
    prompt, solution = text_of(row, "prompt"), text_of(row, "canonical_solution")
    return [asked(prompt), assistant_message(fenced(prompt + solution.rstrip()))]


def asked(prompt: str) -> Message:
    """The message that asks for a function, given its start."""
    return user_message(f"Complete this Python function.\n{fenced(prompt.strip())}")


def fenced(program: str) -> str:
    """A program in a fenced block, as chat models write it."""
    return f"```python\n{program}\n```"


def example_of(row: Row, name: str) -> Example[CodeProblem]:
    """Converts a published row with `entry_point` and `test` to an example with that id. Raises `DataError`."""
    question, reply = conversation(row)
    problem: CodeProblem = {
        "prompt": text_of(row, "prompt"),
        "entry_point": text_of(row, "entry_point"),
        "test": text_of(row, "test"),
    }
    solution = problem["prompt"] + text_of(row, "canonical_solution").rstrip()
    return Example(name, (question,), reply["content"], problem, solution)


SOURCE = HubSource(
    "openai/openai_humaneval",
    ("openai_humaneval",),
    None,
    "test",
    ("prompt", "canonical_solution", "entry_point", "test"),
    example=example_of,
)


class HumanEvalTask(CodeTask):
    """A function that passes its hidden tests. Use `form` "continuation" for models that continue the prompt."""

    name = "humaneval"
    origins: Mapping[str, Origin] = {"hub": Origin("HumanEval")}
