"""The questions that a checkpoint is looked at with, each cut off where its answer is decided.

For answers by letter that is the token before the letter, after the gold solution, so that the reasoning is given and
only the choice is left to the model. An open answer has no single such token: there it is the token before the reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aquarat_core.tasks.task import Example, Task
from aquarat_core.text.chat import render, render_prompt
from aquarat_core.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Context:
    """The tokens of one example up to where its answer is decided."""

    id: str
    ids: list[int]
    gold: int = -1
    """Index of the right letter; -1 where answers are open."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The contexts that were drawn, and how many examples were passed over on the way because they cannot be used."""

    contexts: list[Context]
    left_out: int


def letter_context(
    task: Task[Any], example: Example[Any], tokenizer: Tokenizer, letter_ids: Sequence[int]
) -> Context | None:
    """The example up to the token before its letter.

    None where there is nothing to choose at that place: the example has another number of options than the task has
    letters, its solution names letters, so that the answer is given away, or the letter is not where it should be.
    """
    if len(example.choices) != len(letter_ids) or not task.is_permutable(example):
        return None
    gold = task.categories.index(example.reference)
    if example.target is None:
        whole = render_prompt(tokenizer, example.messages) + tokenizer.encode(task.answer_text(example.reference))
    else:
        whole = render(tokenizer, example.conversation())[0][:-1]  # without the end token
    *context, letter = whole
    return Context(example.id, context, gold) if letter == letter_ids[gold] else None


def open_context(example: Example[Any], tokenizer: Tokenizer) -> Context:
    """The example up to the token before the reply."""
    return Context(example.id, render_prompt(tokenizer, example.messages))


def draw(contexts: Iterable[Context | None], n: int, room: int) -> Drawn:
    """The first `n` contexts of at most `room` tokens."""
    found: list[Context] = []
    left_out = 0
    for context in contexts:
        if context is None or len(context.ids) > room:
            left_out += 1
            continue
        found.append(context)
        if len(found) == n:
            break
    return Drawn(found, left_out)


def shuffled(examples: Sequence[Example[Any]], seed: int) -> Iterable[Example[Any]]:
    """The examples in an order that depends on the seed and on how many there are."""
    order: list[int] = np.random.default_rng(seed).permutation(len(examples)).tolist()
    return (examples[i] for i in order)


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token; bytes that are no whole character are written as escapes, `\\xe2`."""
    return [tokenizer.token(id).decode("utf-8", "backslashreplace") for id in ids]
