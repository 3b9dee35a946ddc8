"""Completions: continuations of texts, whole or as events, and log-probabilities of the texts themselves."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aquarat_core.rollout.batch import Likelihood
from aquarat_core.serving.likelihoods import likelihoods_of
from aquarat_core.serving.openai.answering import Asked, Part, parts
from aquarat_core.serving.openai.bodies import TextBody
from aquarat_core.serving.openai.envelope import Envelope, asked_of
from aquarat_core.serving.openai.errors import ApiError
from aquarat_core.serving.openai.likelihoods import text_form
from aquarat_core.serving.site import Served


@dataclass(frozen=True, slots=True)
class Text:
    """A request for continuations of texts."""

    served: Served
    body: TextBody
    asked: Asked

    @classmethod
    def prepare(cls, served: Served, body: TextBody) -> Text:
        """A text follows `<|bos|>`; ids are taken as they are. Raises `ApiError` for what cannot be continued."""
        tokenizer = served.model.tokenizer
        bos, size = tokenizer.special("<|bos|>"), tokenizer.vocab_size
        prompts: list[list[int]] = []
        for prompt in body.prompts:
            ids = [bos, *tokenizer.encode(prompt)] if isinstance(prompt, str) else prompt
            if wrong := next((id for id in ids if id >= size), None):
                raise ApiError(400, f"token {wrong} is not in the vocabulary of {size}", param="prompt")
            prompts.append(ids)
        return cls(served, body, asked_of(served, body, prompts, body.max_tokens, body.logprobs))

    def parts(self, seconds: float) -> AsyncGenerator[Part]:
        """See `answering.parts`; nothing if no token is asked for."""
        return parts(self.served, self.asked, seconds) if self.body.max_tokens != 0 else _nothing()

    def _envelope(self) -> Envelope:
        return Envelope(self.served, "text_completion", sum(map(len, self.asked.prompts)))

    async def whole(self, parts: AsyncGenerator[Part]) -> dict[str, Any]:
        """The complete continuations."""
        envelope, n = self._envelope(), self.asked.n
        held: list[list[Part]] = [[] for _ in range(n * len(self.asked.prompts))]
        async with aclosing(parts):
            async for part in parts:
                held[part.choice].append(part)
        choices: list[dict[str, Any]] = []
        for i, found in enumerate(held):
            choices.append(self._choice(i, found, *await self._echo(i // n)))
        n_sampled = sum(part.n_sampled for found in held for part in found)
        return envelope.framed(choices, usage=envelope.usage(n_sampled))

    async def _echo(self, i: int) -> tuple[list[int], list[Likelihood | None]]:
        """The ids of prompt i that the answer repeats and, if they are asked for, their likelihoods.

        The `<|bos|>` before a text is not repeated: the client did not send it.
        """
        if not self.body.echo:
            return [], []
        ids = list(self.asked.prompts[i])
        first = int(isinstance(self.body.prompts[i], str))
        k = self.body.logprobs
        if k is None:
            return ids[first:], []
        likelihoods = await self.served.run(lambda model: likelihoods_of(model, ids, k))
        return ids[first:], likelihoods[first:]

    def _choice(
        self, i: int, found: list[Part], before: list[int], before_likelihoods: list[Likelihood | None]
    ) -> dict[str, Any]:
        tokenizer = self.served.model.tokenizer
        logprobs = None
        if self.body.logprobs is not None:
            drawn = [one for part in found for one in part.tokens]
            ids = [*before, *(one.token for one in drawn)]
            logprobs = text_form(tokenizer, ids, [*before_likelihoods, *(one.likelihood for one in drawn)])
        return {
            "index": i,
            "text": tokenizer.decode(before) + "".join(part.text for part in found),
            "logprobs": logprobs,
            "finish_reason": found[-1].finish if found else "length",
        }

    async def events(self, first: Part, rest: AsyncGenerator[Part]) -> AsyncGenerator[bytes]:
        """The continuations as server-sent events."""
        offsets: dict[int, int] = {}
        shown = self._envelope().events(first, rest, lambda part: [self._chunk(part, offsets)], self.body.with_usage)
        async for one in shown:
            yield one

    def _chunk(self, part: Part, offsets: dict[int, int]) -> dict[str, Any]:
        """One part; `offsets` has the length of each choice's text so far."""
        start = offsets.get(part.choice, 0)
        offsets[part.choice] = start + len(part.text)
        logprobs = None
        if self.body.logprobs is not None and part.tokens:
            ids, likelihoods = [one.token for one in part.tokens], [one.likelihood for one in part.tokens]
            logprobs = text_form(self.served.model.tokenizer, ids, likelihoods, start)
        return {"index": part.choice, "text": part.text, "logprobs": logprobs, "finish_reason": part.finish}


async def _nothing() -> AsyncGenerator[Part]:
    for part in ():
        yield part
