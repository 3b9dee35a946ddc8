"""The token at which a letter answer is decided: the letters' ids there, and their probabilities.

Works for every task whose answers are single letters, one for each choice. After "Answer:", a letter's token includes
the space before it, so its id differs from that of the bare letter. The ids are therefore read off encoded answers,
never looked up by the letter alone.

Shapes: B contexts, L letters, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from aquarat_core.data.rows import pad
from aquarat_core.model.transformer import Transformer
from aquarat_core.text.tokenizer import Tokenizer, TokenizerError


class Lettered(Protocol):
    """A task whose answers are letters, as far as their tokens are concerned; see `tasks.task.Task`."""

    @property
    def categories(self) -> tuple[str, ...]: ...

    def answer_text(self, answer: str) -> str: ...


def letter_ids(tokenizer: Tokenizer, task: Lettered) -> list[int]:
    """Ids of the task's letters at their position in an answer.

    Raises `TokenizerError` if the letter in an answer is not a token of its own.
    """
    return answer_cue(tokenizer, task, "so.\n")[1]


def answer_cue(tokenizer: Tokenizer, task: Lettered, before: str = "") -> tuple[list[int], list[int]]:
    """The ids of the task's own words for an answer up to the letter, after the text `before`, and those of its letters
    there.

    Raises `TokenizerError` when the tokenizer gives an answer's letter no token of its own.
    """
    answers = [tokenizer.encode(f"{before}{task.answer_text(letter)}") for letter in task.categories]
    stems, ids = {tuple(answer[:-1]) for answer in answers}, [answer[-1] for answer in answers]
    if len(stems) != 1 or len(set(ids)) != len(task.categories):
        raise TokenizerError(
            f"the tokenizer does not end the answers {', '.join(task.categories)} in tokens of their own: train it on "
            "text with answers"
        )
    return list(stems.pop()), ids


def bare_letters(tokenizer: Tokenizer, task: Lettered) -> list[int]:
    """Ids of the task's letters where each is the whole answer.

    Raises `TokenizerError` when one is more than one token.
    """
    answers = [tokenizer.encode(letter) for letter in task.categories]
    if any(len(answer) != 1 for answer in answers):
        raise TokenizerError(f"the tokenizer has no tokens for the bare letters {', '.join(task.categories)}")
    return [answer[0] for answer in answers]


def answer_position(tokens: Sequence[int], letter_id: int) -> int | None:
    """Index of an answer's letter in the tokens of a completion: the last token with that id."""
    return max((i for i, token in enumerate(tokens) if token == letter_id), default=None)


@torch.no_grad()
def letter_logits(model: Transformer, contexts: Sequence[Sequence[int]], ids: Sequence[int], rows: int = 64) -> Tensor:
    """Logits [B, L] of the letters after each context."""
    return logits_after(model, contexts, rows)[:, list(ids)]


@torch.no_grad()
def logits_after(model: Transformer, contexts: Sequence[Sequence[int]], rows: int = 64) -> Tensor:
    """Logits [B, V] of the token after each context."""
    found: list[Tensor] = []
    for start in range(0, len(contexts), rows):
        part = contexts[start : start + rows]
        lengths = torch.tensor([len(c) for c in part])
        hidden = model.hidden(pad(part).to(model.cos.device))
        found.append(model.logits(hidden[torch.arange(len(part)), lengths - 1]))
    return torch.cat(found)
