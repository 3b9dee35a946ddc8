"""Prompts of CORE, as the practice has them: which examples stand before a question, and which tokens are scored.

The order of questions and the choice of examples follow from fixed seeds, so that scores compare to the question with
those of other programs (facts: nanochat's `core_eval.py`, which follows DataComp-LM). A text is encoded as a whole, and
the tokens that are scored are found in ids: encoding a context and an ending one by one could give other tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from aquarat_core.evaluation.core.bundle import CoreTask, Row

ORDER_SEED = 1337
EXAMPLES_SEED = 1234
"""Question i draws its examples with this plus i."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One alternative of a question: the token ids before the tokens that are scored, and those."""

    context: Sequence[int]
    """BOS included."""
    continuation: Sequence[int]
    """Empty for a choice that is the beginning of another one, which has no tokens of its own."""


def in_order(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """The rows in the order in which they are asked, the first `limit` of them.

    Examples are drawn from these rows alone, so a limit changes the prompts of the questions that are left.
    """
    shuffled = list(rows)
    random.Random(ORDER_SEED).shuffle(shuffled)
    return shuffled[:limit]


def examples(i: int, n: int, shots: int) -> list[int]:
    """Places of the examples before question `i` of `n`: `shots` of the other n - 1."""
    # As drawn from a list of the others, which to make for each of n questions would take n squared steps.
    drawn = random.Random(EXAMPLES_SEED + i).sample(range(n - 1), shots) if shots else []
    return [j + (j >= i) for j in drawn]


def prompts(task: CoreTask, rows: Sequence[Row], i: int) -> list[str]:
    """The texts of question `i` among `rows`, which are in order.

    One for each choice or context; for `language_modeling` two, without the continuation and with it.
    """
    row, d = rows[i], task.delimiter
    shown = "".join(f"{_solved(task, rows[j])}\n\n" for j in examples(i, len(rows), task.shots))
    if task.type == "language_modeling":
        asked = f"{shown}{row.contexts[0].strip()}{d}"
        # Stripped, so that the space before a continuation is part of its first token, as in most texts.
        return [asked.strip(), f"{asked}{row.endings[0]}"]
    return [f"{shown}{context}{d}{ending}" for context in row.contexts for ending in row.endings]


def _solved(task: CoreTask, row: Row) -> str:
    context, ending = _right_pair(row)
    return f"{context.strip() if task.type == 'language_modeling' else context}{task.delimiter}{ending}"


def _right_pair(row: Row) -> tuple[str, str]:
    """The context and the ending of the right alternative."""
    pairs = [(context, ending) for context in row.contexts for ending in row.endings]
    return pairs[row.gold]


def scored(task: CoreTask, ids: Sequence[Sequence[int]], bos: int) -> list[Scored] | None:
    """The alternatives of a question whose `prompts` have these ids, BOS to be put before each.

    What is scored is, of `multiple_choice`, all that follows the longest beginning that all choices share; of `schema`,
    the longest end that all contexts share; of `language_modeling`, what the prompt with the continuation has more.
    None if there it is not the prompt without it that it begins with, or nothing follows: it cannot be scored.
    """
    if task.type == "language_modeling":
        without, whole = ids
        n = len(without)
        if n >= len(whole) or list(whole[:n]) != list(without):
            return None
        return [Scored([bos, *whole[:n]], whole[n:])]
    if task.type == "multiple_choice":
        n = _shared(ids)
        return [Scored([bos, *choice[:n]], choice[n:]) for choice in ids]
    n = _shared([choice[::-1] for choice in ids])
    return [Scored([bos, *choice[: len(choice) - n]], choice[len(choice) - n :]) for choice in ids]


def _shared(ids: Sequence[Sequence[int]]) -> int:
    """Tokens that all begin with: those that the first and the last in lexicographic order share."""
    in_lists = [list(one) for one in ids]
    first, last = min(in_lists), max(in_lists)
    ends = min(len(first), len(last))
    return next((i for i in range(ends) if first[i] != last[i]), ends)
