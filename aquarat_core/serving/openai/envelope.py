"""What all answers have around their choices, and their form as server-sent events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aquarat_core.errors import UsageError
from aquarat_core.rollout.sampling import Sampling
from aquarat_core.rollout.tools import calculator
from aquarat_core.serving.openai.answering import Asked, Part
from aquarat_core.serving.openai.bodies import ChatBody, TextBody
from aquarat_core.serving.openai.errors import ApiError
from aquarat_core.serving.site import Served

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Envelope:
    """The frame of one answer."""

    served: Served
    kind: str
    """Name of the object, such as `chat.completion`."""
    n_prompt: int
    """Tokens of all prompts."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def framed(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """The object with these choices."""
        artifact = self.served.artifact
        return {
            "id": f"{'chatcmpl' if self.kind.startswith('chat') else 'cmpl'}-{self.id}",
            "object": self.kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": artifact.sha256[:12] if artifact else None,
            "choices": choices,
            **more,
        }

    def usage(self, n_sampled: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": n_sampled,
            "total_tokens": self.n_prompt + n_sampled,
        }

    async def events(
        self,
        first: Part,
        rest: AsyncGenerator[Part],
        choices: Callable[[Part], list[dict[str, Any]]],
        with_usage: bool,
    ) -> AsyncGenerator[bytes]:
        """The events of a stream: one for each of the `choices` that a part becomes, and the end. Closes `rest`."""
        n_sampled = 0
        try:
            async with aclosing(rest):
                part: Part | None = first
                while part is not None:
                    n_sampled += part.n_sampled
                    for choice in choices(part):
                        yield event(self.framed([choice]))
                    part = await anext(rest, None)
        except ApiError as e:
            yield event(e.body)
            return
        if with_usage:
            yield event(self.framed([], usage=self.usage(n_sampled)))
        yield DONE


def event(content: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def asked_of(
    served: Served, body: ChatBody | TextBody, prompts: list[list[int]], limit: int | None, alternatives: int | None
) -> Asked:
    """How to answer; `limit` is the client's maximum number of tokens, None for as many as is usual and has room.

    Raises `ApiError` for what is out of range, and if a prompt leaves no room for the answer.
    """
    longest, room = max(map(len, prompts)), served.model.config.sequence_len
    limits = served.worker.limits[served.name]
    most, n_answers, most_answers = limits.max_new_tokens, len(prompts) * (body.n or 1), limits.rows + limits.waiting
    if limit != 0 and n_answers > most_answers:  # however long the client waits
        raise ApiError(
            400,
            f"the request asks for {n_answers} answers, but this server takes no more than {most_answers} at a time",
            param="n",
        )
    if limit is None:
        limit = max(1, min(served.model.max_chat_tokens, most, room - longest))
    if limit > most:
        raise ApiError(400, f"max_tokens is {limit}, but this server generates no more than {most}", None, "max_tokens")
    if longest + limit > room:
        raise ApiError(
            400,
            f"the model's context has room for {room} tokens, but the prompt has {longest} and {limit} were asked for: "
            "shorten the messages or lower max_tokens",
            "context_length_exceeded",
            "messages" if isinstance(body, ChatBody) else "prompt",
        )
    try:
        sampling = Sampling(1.0 if body.temperature is None else body.temperature, body.top_k, body.top_p)
    except UsageError as e:
        raise ApiError(400, str(e), param="temperature") from None
    tool = calculator(served.model.tokenizer) if body.calculator else None
    return Asked(prompts, body.n or 1, max(limit, 1), sampling, body.seed, body.stops, tool, alternatives)


async def first_of(parts: AsyncGenerator[Part]) -> Part:
    """The first part: an error before it can still be a response of its own. Closes the generator then."""
    try:
        return await anext(parts)
    except BaseException:
        await parts.aclose()
        raise
