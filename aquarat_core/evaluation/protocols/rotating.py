"""Greedy answers under every cyclic order of the options: each option stands once in each place.

Options that refer to each other ("both A and B") keep their order: such a question is asked once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aquarat_core.config.evaluation import Asked
from aquarat_core.evaluation.protocols.generating import answer, tool_of
from aquarat_core.evaluation.protocols.subject import Subject, Tell
from aquarat_core.evaluation.records import Record
from aquarat_core.tasks.task import A, Example, Task


def rotations(task: Task[A], example: Example[A]) -> list[Example[A]]:
    """The example with its options moved on by 0, 1, ... places; it alone if they keep their order."""
    n = len(example.choices)
    if n < 2 or task.rotated(example, 1) == example:
        return [example]
    return [example, *(task.rotated(example, shift) for shift in range(1, n))]


def rotated(
    subject: Subject, task: Task[A], examples: Sequence[Example[A]], asked: Asked, tell: Tell | None = None
) -> list[Record]:
    """Greedy answers to all rotations of each example, one after the other; `sample` is the shift."""
    shown = [(shift, e) for example in examples for shift, e in enumerate(rotations(task, example))]
    records = answer(
        subject.engine, subject.tokenizer, task, [e for _, e in shown], asked.max_new_tokens, subject.max_rows,
        tool_of(subject, asked), tell,
    )  # fmt: skip
    return [replace(record, sample=shift) for (shift, _), record in zip(shown, records, strict=True)]
