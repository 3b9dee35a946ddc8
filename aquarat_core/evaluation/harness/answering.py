"""What lm-evaluation-harness asks of a model, answered by the scorer and the engine; this module does not know that
program.

A prompt that is too long for the model's context loses its beginning, as in that program's own models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from aquarat_core.errors import DataError
from aquarat_core.evaluation.harness.marked_text import MarkedText
from aquarat_core.evaluation.likelihood import Choices, Likelihood, Scorer
from aquarat_core.evaluation.protocols.subject import Subject, Tell
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key

FIRST_ROUND = 32
"""Tokens after which it is first looked whether an answer has said one of the texts that end it; then after twice as
many, and so on. What goes on is read again, in one pass."""
Pair = tuple[Sequence[int], Sequence[int]]
"""The tokens of a context and of a continuation."""


@dataclass(frozen=True, slots=True)
class Writing:
    """How an answer is written."""

    until: tuple[str, ...]
    """Texts that end an answer, and are no part of it."""
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """An answer without the text that ended it; `truncated` if the token limit did."""

    text: str
    truncated: bool
    cropped: bool
    """Whether the prompt lost its beginning."""


class Answerer:
    """A model that is asked for likelihoods of token sequences and for answers to prompts."""

    def __init__(self, subject: Subject, seed: int, chat: bool) -> None:
        """`chat` says that prompts are conversations: an answer then ends with the assistant's turn, otherwise with the
        document. `seed` decides what is sampled."""
        self.subject, self.seed = subject, seed
        self.text = MarkedText(subject.tokenizer)
        self.scorer = Scorer(subject.model, "crop")
        self.end = subject.tokenizer.special("<|assistant_end|>" if chat else "<|bos|>")

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.subject.model, self.end)

    def is_cropped(self, pair: Pair) -> bool:
        return len(pair[0]) + len(pair[1]) > self.subject.sequence_len

    def likelihoods(self, pairs: Sequence[Pair], tell: Tell | None = None) -> list[Likelihood]:
        """The likelihood of each continuation; those of the same context share it.

        `tell` is called with the number of pairs done so far, about. Raises `DataError` for an empty continuation.
        """
        same: dict[tuple[int, ...], list[int]] = {}
        for i, (context, continuation) in enumerate(pairs):
            if not continuation:
                end = self.subject.tokenizer.decode(context)[-80:]
                raise DataError(f"after {end!r} comes a continuation without text, which has no likelihood")
            same.setdefault(tuple(context), []).append(i)
        requests = [Choices(context, [pairs[i][1] for i in members]) for context, members in same.items()]
        found: dict[int, Likelihood] = {}
        told = _scaled(tell, len(pairs), len(requests))
        for members, scored in zip(same.values(), self.scorer.score(requests, told), strict=True):
            found.update(zip(members, scored, strict=True))
        return [found[i] for i in range(len(pairs))]

    def write(
        self, prompts: Sequence[Sequence[int]], how: Sequence[Writing], tell: Tell | None = None
    ) -> list[Written]:
        """An answer to each prompt. It has at most half of the model's context, whatever it may have by `how`.

        A sampled answer depends on its prompt, its place and the seed.
        """
        found: dict[int, Written] = {}
        for writing in dict.fromkeys(how):
            members = [i for i, one in enumerate(how) if one == writing]
            answers = self._write([prompts[i] for i in members], members, writing, _after(tell, len(found)))
            found.update(zip(members, answers, strict=True))
        return [found[i] for i in range(len(prompts))]

    def _write(
        self, prompts: Sequence[Sequence[int]], places: Sequence[int], how: Writing, tell: Tell | None
    ) -> list[Written]:
        room = self.subject.sequence_len
        budget = min(how.max_new_tokens, room // 2)
        cut = [list(prompt[-(room - budget) :]) for prompt in prompts]
        said: list[list[int]] = [[] for _ in prompts]
        answers: dict[int, Written] = {}
        written, step = 0, FIRST_ROUND
        while unfinished := [i for i in range(len(prompts)) if i not in answers]:
            n = min(step, budget - written)
            found = self.engine.generate(
                [cut[i] + said[i] for i in unfinished],
                [[row_key("harness", self.seed, places[i], written)] for i in unfinished],
                n, how.temperature, self.subject.max_rows, how.top_k, how.top_p,
            )  # fmt: skip
            written, step = written + n, step * 2
            for i, (completion,) in zip(unfinished, found, strict=True):
                said[i] += completion.content
                text, ended = self._up_to(said[i], how.until)
                ended |= completion.ended
                if ended or written >= budget:
                    answers[i] = Written(text, not ended, len(cut[i]) < len(prompts[i]))
            if tell is not None:
                tell(len(answers))
        return [answers[i] for i in range(len(prompts))]

    def _up_to(self, ids: Sequence[int], until: Sequence[str]) -> tuple[str, bool]:
        """The text before the first of `until` or the end of a turn or document, and whether there was one."""
        special = self.subject.tokenizer.special
        ends = [i for i, id in enumerate(ids) if id in (special("<|bos|>"), special("<|assistant_end|>"))]
        text = self.subject.tokenizer.decode(ids[: ends[0]] if ends else ids)
        places = [place for stop in until if stop and (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text, bool(ends or places)


def _scaled(tell: Tell | None, total: int, parts: int) -> Tell | None:
    """Tells of `total` where something else tells of `parts`."""
    return None if tell is None else lambda done: tell(done * total // parts)


def _after(tell: Tell | None, before: int) -> Tell | None:
    """Tells of what comes after the first `before`."""
    return None if tell is None else lambda done: tell(before + done)
