"""Runs the evaluations of a checkpoint one after the other, over the ranks of a stage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from aquarat_core.config.evaluation import Asked
from aquarat_core.config.protocols import OF_CHOICES
from aquarat_core.errors import DataError, UserError
from aquarat_core.evaluation.protocols.evaluator import Evaluator, check_supported
from aquarat_core.evaluation.records import Facts, Record
from aquarat_core.tasks.task import Example, Task


@dataclass(frozen=True, slots=True)
class Questions:
    """One evaluation before it is run."""

    asked: Asked
    task: Task[Any]
    examples: Sequence[Example[Any]]
    """The examples as they are shown to the model."""
    facts: Facts


@dataclass(frozen=True, slots=True)
class Answered:
    """One evaluation after it was run."""

    facts: Facts
    records: list[Record]


def runnable(suite: Sequence[Questions], optional: Collection[str], log: Callable[[str], None]) -> list[Questions]:
    """The evaluations that can be run here. Those whose names are `optional` are left out, with a line in the log,
    where the task does not support the protocol or this machine cannot grade it.

    Raises `UserError` for what would otherwise fail after others have been run: a protocol that a task does not
    support, a machine on which it cannot be graded, a right answer that is none of the choices.
    """
    found: list[Questions] = []
    for questions in suite:
        check_golds(questions)
        try:
            check_supported(questions.task, questions.asked.protocol)
            questions.task.check_ready()
        except UserError as e:
            if questions.asked.name not in optional:
                raise
            log(f"{questions.asked.name} is left out: {e}")
            continue
        found.append(questions)
    return found


def check_golds(questions: Questions) -> None:
    """Raises `DataError` that names the row whose right answer is not among its choices."""
    task = questions.task
    if not OF_CHOICES.intersection(task.protocols):
        return
    for example in questions.examples:
        letters = ascii_uppercase[: len(example.choices)]
        if len(example.reference) != 1 or example.reference not in letters:
            raise DataError(
                f"{questions.facts['data_asset']}, task {task.name}, {questions.asked.split} row {example.id}: the "
                f"right answer {example.reference[:80]!r} is none of its {len(letters)} choices. Mend or drop the row, "
                "and make the data set again"
            )


def run(model: Evaluator, suite: Sequence[Questions], tell: Callable[[int, int, str], None]) -> list[Answered]:
    """The answers of every evaluation on rank 0; nothing elsewhere.

    What cannot be run was sorted out by `runnable`. `tell` is called with the questions answered so far, of
    how many, and the name of the evaluation that is running.
    """
    total, done = sum(len(questions.examples) for questions in suite), 0
    found: list[Answered] = []
    for questions in suite:
        before, name = done, questions.asked.name
        records = model.ask(
            questions.asked, questions.task, questions.examples, lambda n, at=before, of=name: tell(at + n, total, of)
        )
        done += len(questions.examples)
        tell(done, total, name)
        found.append(Answered(questions.facts, records))
    return [] if model.world.rank else found
