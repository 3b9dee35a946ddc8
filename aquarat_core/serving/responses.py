"""Reading requests and sending streams, with a client that may be slow, go away or send too much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from aquarat_core.serving.guard import Receive, Scope, Send
from aquarat_core.serving.openai.errors import ApiError

T = TypeVar("T")
MAX_BODY = 1 << 20
"""Bytes of a request's body."""
BODY_SECONDS = 30.0
"""Time that a client has to send it."""


async def read_body(request: Request) -> bytes:
    """The body. Raises `ApiError` if it is too large or does not arrive."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise ApiError(413, f"the body is larger than {MAX_BODY:,} bytes", "request_too_large")
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:g} seconds", "timeout") from None
    return b"".join(parts)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client goes. Raises `ClientDisconnect` then."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


class EventStream:
    """A response of server-sent events, whose generator is closed at once when the client goes or stops reading."""

    def __init__(self, events: AsyncGenerator[bytes], source: AsyncGenerator[Any], send_seconds: float) -> None:
        """`source` is what the events are made of; a generator that was never started could not close it.

        A client that takes longer than `send_seconds` to accept an event is given up.
        """
        self._events, self._source, self._seconds = events, source, send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        watching = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            for task in (sending, watching):
                task.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)
            await self._source.aclose()

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache, no-store")]
        async with aclosing(self._events) as events:
            try:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                async for event in events:
                    async with asyncio.timeout(self._seconds):
                        await send({"type": "http.response.body", "body": event, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            except (OSError, TimeoutError):
                return  # the client is gone, or as good as gone


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
