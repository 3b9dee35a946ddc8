"""The answers to one request, as parts in the order in which they are generated."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from aquarat_core.rollout.batch import Drawn, Request
from aquarat_core.rollout.random import row_key
from aquarat_core.rollout.sampling import Sampling
from aquarat_core.rollout.tools import Tool
from aquarat_core.serving.openai.errors import ApiError
from aquarat_core.serving.site import Served
from aquarat_core.serving.worker import BusyError, Stream
from aquarat_core.text.reading import Call, Reader


@dataclass(frozen=True, slots=True)
class Asked:
    """Prompts and how to continue each of them `n` times."""

    prompts: Sequence[Sequence[int]]
    n: int
    budget: int
    sampling: Sampling
    seed: int | None = None
    """With a seed, the same request gets the same answer."""
    stops: Sequence[str] = ()
    tool: Tool | None = None
    alternatives: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """New text of one choice, and the tokens that it came with."""

    choice: int
    text: str
    tokens: Sequence[Drawn] = ()
    """Without the stop token."""
    calls: Sequence[Call] = ()
    n_sampled: int = 0
    """Number of tokens, with the stop token."""
    finish: str | None = None
    """`stop` or `length` in the last part of the choice."""


@dataclass(slots=True)
class _Choice:
    number: int
    stream: Stream
    reader: Reader
    deadline: float
    """By the event loop's clock."""
    n_calls: int = 0

    async def take(self) -> list[Drawn]:
        """Raises `ApiError` after the deadline."""
        try:
            async with asyncio.timeout_at(self.deadline):
                return await self.stream.take()
        except TimeoutError:
            raise ApiError(504, "the answer takes longer than this server allows: ask for less", "timeout") from None


async def parts(served: Served, asked: Asked, seconds: float) -> AsyncGenerator[Part]:
    """All parts of all choices; the last part of each has a `finish`.

    What is still being generated when the generator is closed is stopped: close it. Raises `ApiError` if the server is
    too busy, if it takes more than `seconds`, and if generating fails.
    """
    seed = secrets.token_hex(8) if asked.seed is None else asked.seed
    requests = [
        Request(prompt, [row_key("serve", seed, i, n)], 0, asked.budget, asked.sampling, asked.tool, None,
                asked.alternatives)
        for i, prompt in enumerate(asked.prompts)
        for n in range(asked.n)
    ]  # fmt: skip
    try:
        started = served.worker.ask(served.name, requests)
    except BusyError as e:
        raise ApiError(429, str(e), "rate_limit_exceeded") from None
    tokenizer = served.model.tokenizer
    deadline = asyncio.get_running_loop().time() + seconds
    choices = [_Choice(number, stream, Reader(tokenizer, asked.stops), deadline) for number, stream in started]
    try:
        async with aclosing(_merged(served, choices)) as merged:
            async for part in merged:
                yield part
    finally:
        served.worker.end(served.name, [choice.number for choice in choices])


async def _merged(served: Served, choices: Sequence[_Choice]) -> AsyncGenerator[Part]:
    if len(choices) == 1:
        async with aclosing(_parts_of(served, 0, choices[0])) as only:
            async for part in only:
                yield part
        return
    arrived: asyncio.Queue[Part | Exception] = asyncio.Queue()

    async def follow(i: int, choice: _Choice) -> None:
        try:
            async for part in _parts_of(served, i, choice):
                arrived.put_nowait(part)
        except ApiError as e:
            arrived.put_nowait(e)

    tasks = [asyncio.create_task(follow(i, choice)) for i, choice in enumerate(choices)]
    try:
        left = len(choices)
        while left:
            part = await arrived.get()
            if isinstance(part, Exception):
                raise part
            left -= part.finish is not None
            yield part
    finally:
        for task in tasks:
            task.cancel()


async def _parts_of(served: Served, i: int, choice: _Choice) -> AsyncGenerator[Part]:
    reader, stop_tokens = choice.reader, served.model.engine.stop_tokens
    while drawn := await choice.take():
        text, shown, n_sampled = _read(reader, drawn, stop_tokens)
        calls = reader.calls[choice.n_calls :]
        choice.n_calls = len(reader.calls)
        if reader.stopped:
            served.worker.end(served.name, [choice.number])
            yield Part(i, text, shown, calls, n_sampled, "stop")
            return
        yield Part(i, text, shown, calls, n_sampled)
    if choice.stream.ending == "failed":
        raise ApiError(500, "generating failed; the server's log has the reason", "generation_failed")
    rest = reader.finish()
    yield Part(i, rest, finish="stop" if reader.stopped else choice.stream.ending)


def _read(reader: Reader, drawn: Sequence[Drawn], stop_tokens: Sequence[int]) -> tuple[str, list[Drawn], int]:
    """The text of new tokens, those tokens without the stop token, and how many they are with it.

    What comes after the token that completes a stop text is left out: how many tokens come at a time depends on the
    server's load, and an answer must not.
    """
    said: list[str] = []
    shown: list[Drawn] = []
    for n, one in enumerate(drawn, 1):
        if one.token not in stop_tokens:
            said.append(reader.push([one.token]))
            shown.append(one)
            if reader.stopped:
                return "".join(said), shown, n
    return "".join(said), shown, len(drawn)
