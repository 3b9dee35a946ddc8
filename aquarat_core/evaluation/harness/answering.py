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
from aquarat_core.rollout.stops import StopTexts
from aquarat_core.text.chat import stop_tokens

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
        """`chat` says that prompts are conversations. `seed` decides what is sampled."""
        self.subject, self.seed = subject, seed
        self.text = MarkedText(subject.tokenizer)
        self.scorer = Scorer(subject.model, "crop")
        self.end = subject.tokenizer.special("<|assistant_end|>" if chat else "<|bos|>")
        """The token that ends what prompts are made of: a turn or a document. Either ends an answer."""

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.subject.model, stop_tokens(self.subject.tokenizer))

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
        stops = StopTexts(self.subject.tokenizer, how.until)
        keys = [[row_key("harness", self.seed, place)] for place in places]
        found = self.engine.generate(
            cut, keys, budget, how.temperature, self.subject.max_rows, how.top_k, how.top_p, tell=tell,
            enough=stops.enough,
        )  # fmt: skip
        if tell is not None:
            tell(len(found))
        said = [stops.cut(completion) for (completion,) in found]
        return [
            Written(one.text, not one.ended, len(ids) < len(prompt))
            for one, ids, prompt in zip(said, cut, prompts, strict=True)
        ]


def _scaled(tell: Tell | None, total: int, parts: int) -> Tell | None:
    """Tells of `total` where something else tells of `parts`."""
    return None if tell is None else lambda done: tell(done * total // parts)


def _after(tell: Tell | None, before: int) -> Tell | None:
    """Tells of what comes after the first `before`."""
    return None if tell is None else lambda done: tell(before + done)
