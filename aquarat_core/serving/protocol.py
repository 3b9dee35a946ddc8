"""HTTP/1.1 for clients that may never finish a request's head, or never take an answer."""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0
"""Time that a client has to send the head of a request, from when it connects or begins to send it."""
TAKE_SECONDS = 60.0
"""A client that takes nothing of an answer for so long is given up."""
MAX_HEAD = 64 << 10
"""Bytes of a request's head. uvicorn's other implementation of HTTP has no such limit."""


class Protocol(H11Protocol):
    """Closes connections on which the head of a request does not arrive within `HEAD_SECONDS`."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def give_up_idle_takers(listening: socket.socket) -> None:
    """The system ends a connection of this socket once its client has taken nothing for `TAKE_SECONDS`: the server has
    handed a whole answer over by then and waits for nothing. Linux can do this."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(TAKE_SECONDS * 1000))
