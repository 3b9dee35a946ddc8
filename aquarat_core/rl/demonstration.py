"""What the teacher of self-distillation sees: the question and, after it, its worked solution.

The solution stands in the user's message, so that policy and teacher continue the same turn of the same conversation.
Only an assistant calls tools, so calls and outputs are left out of it: as text, their marks would be words that the
policy has never read.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

from aquarat_core.conversation import Message, user_message, without_calls
from aquarat_core.errors import StageError
from aquarat_core.evaluation.protocols.generating import ORDER_TOKENS
from aquarat_core.tasks.task import A, A_co, Example, Task
from aquarat_core.text.chat import render_prompt
from aquarat_core.text.tokenizer import Tokenizer

LEAD = "A worked solution:"
CUT = "... "
"""Stands for the beginning of a solution that was cut off."""


@dataclass(frozen=True, slots=True)
class Taught(Generic[A_co]):
    """The examples that can be taught, and what became of the others."""

    examples: list[Example[A_co]]
    unsolved: int
    """Examples left out because they have no worked solution, or one that names options by letter or place and would be
    wrong once they are permuted."""
    too_long: int
    """Examples left out because not even the last line of the solution fits."""
    cut: int
    """Examples that are taught without the beginning of their solution."""


def taught(task: Task[A], examples: Sequence[Example[A]], tokenizer: Tokenizer, room: int) -> Taught[A]:
    """The `examples` whose teacher's prompt fits into `room` tokens, in any order of their choices.

    Raises `StageError` if none of them has a worked solution.
    """
    solved = [e for e in examples if has_solution(task, e)]
    if examples and not solved:
        raise StageError(
            f"none of the {len(examples)} training questions of {task.name} has a worked solution for the teacher to "
            "see: choose another task (rl_checkpoint.tasks), or train on rewards (rl_checkpoint.distillation.teacher "
            "'none')"
        )
    kept: list[Example[A]] = []
    n_cut = 0
    for example in solved:
        found = _fitted(tokenizer, example, room - (ORDER_TOKENS if example.choices else 0))
        if found is not None:
            kept.append(example)
            n_cut += found[1]
    return Taught(kept, len(examples) - len(solved), len(solved) - len(kept), n_cut)


def has_solution(task: Task[A], example: Example[A]) -> bool:
    """Whether the example's target contains a worked solution that stays correct however its options are ordered."""
    if example.target is None or example.target.strip() == task.answer_text(example.reference).strip():
        return False
    keeps_order = task.rotated(example, 1) == example
    return keeps_order or task.is_permutable(example)


def teacher_prompt(tokenizer: Tokenizer, example: Example[Any], room: int) -> list[int]:
    """The teacher's prompt in at most `room` tokens. Words are cut off from the beginning of a solution that is too
    long, because its end leads to the answer.

    Raises `StageError` if the example has no target, or if not even the last line of it fits.
    """
    if example.target is None:
        raise StageError(f"question {example.id} has no worked solution for the teacher to see: leave it out")
    found = _fitted(tokenizer, example, room)
    if found is None:
        raise StageError(
            f"question {example.id} leaves no room for its answer in the teacher's prompt of up to {room} tokens: "
            "lower rl_checkpoint.max_new_tokens, or train with a longer base_checkpoint.model.sequence_len"
        )
    return found[0]


def _fitted(tokenizer: Tokenizer, example: Example[Any], room: int) -> tuple[list[int], bool] | None:
    """The prompt and whether its solution was cut; None if the last line of the solution does not fit."""
    solution = without_calls(example.target or "", example.target_parts).strip()

    def rendered(start: int) -> list[int]:
        return render_prompt(tokenizer, _messages(example, f"{CUT if start else ''}{solution[start:]}"))

    if len(whole := rendered(0)) <= room:
        return whole, False
    last_line = solution.rfind("\n") + 1
    starts = [word.start() for word in re.finditer(r"\S+", solution) if 0 < word.start() <= last_line]
    n = bisect_left(starts, True, key=lambda start: len(rendered(start)) <= room)
    return (rendered(starts[n]), True) if n < len(starts) else None


def _messages(example: Example[Any], solution: str) -> list[Message]:
    *before, question = example.messages
    return [*before, user_message(f"{question['content']}\n\n{LEAD}\n{solution}")]
