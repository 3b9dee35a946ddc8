"""Chat completions: an answer to a conversation, whole or as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aquarat_core.serving.openai.answering import Asked, Part, parts
from aquarat_core.serving.openai.bodies import ChatBody
from aquarat_core.serving.openai.envelope import Envelope, asked_of, event
from aquarat_core.serving.openai.errors import ApiError
from aquarat_core.serving.openai.likelihoods import chat_form
from aquarat_core.serving.site import Served
from aquarat_core.text.chat import render_prompt


@dataclass(frozen=True, slots=True)
class Chat:
    """A request for an answer to a conversation."""

    served: Served
    body: ChatBody
    asked: Asked

    @classmethod
    def prepare(cls, served: Served, body: ChatBody) -> Chat:
        """Raises `ApiError` for what cannot be answered."""
        try:
            ids = render_prompt(served.model.tokenizer, [message.message for message in body.messages])
        except ValueError as e:
            raise ApiError(400, f"this is not a conversation to answer: {e}", param="messages") from None
        limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        alternatives = (body.top_logprobs or 0) if body.logprobs else None
        return cls(served, body, asked_of(served, body, [ids], limit, alternatives))

    def parts(self, seconds: float) -> AsyncGenerator[Part]:
        """See `answering.parts`."""
        return parts(self.served, self.asked, seconds)

    def _envelope(self, kind: str) -> Envelope:
        return Envelope(self.served, kind, sum(map(len, self.asked.prompts)))

    async def whole(self, parts: AsyncGenerator[Part]) -> dict[str, Any]:
        """The complete answer."""
        envelope = self._envelope("chat.completion")
        held: list[list[Part]] = [[] for _ in range(self.asked.n)]
        async with aclosing(parts):
            async for part in parts:
                held[part.choice].append(part)
        choices = [self._choice(i, found) for i, found in enumerate(held)]
        n_sampled = sum(part.n_sampled for found in held for part in found)
        return envelope.framed(choices, usage=envelope.usage(n_sampled))

    def _choice(self, i: int, found: list[Part]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(part.text for part in found)}
        if calls := [call for part in found for call in _calls(part)]:
            message["calls"] = calls
        logprobs = [one for part in found for one in self._logprobs(part)]
        return {
            "index": i,
            "message": message,
            "logprobs": {"content": logprobs} if self.body.logprobs else None,
            "finish_reason": found[-1].finish,
        }

    async def events(self, first: Part, rest: AsyncGenerator[Part]) -> AsyncGenerator[bytes]:
        """The answer as server-sent events."""
        envelope = self._envelope("chat.completion.chunk")
        for i in range(self.asked.n):
            yield event(envelope.framed([_delta(i, {"role": "assistant", "content": ""})]))
        async for one in envelope.events(first, rest, self._deltas, self.body.with_usage):
            yield one

    def _deltas(self, part: Part) -> list[dict[str, Any]]:
        delta: dict[str, Any] = {"content": part.text} if part.text else {}
        if calls := _calls(part):
            delta["calls"] = calls
        logprobs = self._logprobs(part)
        found: list[dict[str, Any]] = []
        if delta or logprobs:
            found.append(_delta(part.choice, delta or {"content": ""}, logprobs=logprobs))
        if part.finish:
            found.append(_delta(part.choice, {}, part.finish))
        return found

    def _logprobs(self, part: Part) -> list[dict[str, Any]]:
        return chat_form(self.served.model.tokenizer, part.tokens) if self.body.logprobs else []


def _calls(part: Part) -> list[dict[str, str]]:
    """Calls of the calculator, in a field of our own."""
    return [{"expression": call.expression, "result": call.result} for call in part.calls]


def _delta(
    i: int, delta: dict[str, Any], finish: str | None = None, logprobs: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {
        "index": i,
        "delta": delta,
        "logprobs": {"content": logprobs} if logprobs else None,
        "finish_reason": finish,
    }
