"""Sequences of asynchronous messages between ranks that advance while the caller computes."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TypeAlias

import torch.distributed as dist

Transfer: TypeAlias = Generator[dist.Work | None]
"""Starts messages one after the other and yields each; the next one is requested when the message has arrived."""


class Transfers:
    """Several transfers at once, of which each rank starts the same ones in the same order.

    The n-th message of a transfer never starts before the n-th of those that were started earlier. So if the n-th
    messages of all transfers use the same process group, ranks start that group's messages in the same order, as it
    requires, however fast each rank is.
    """

    def __init__(self) -> None:
        self._running: list[_Running] = []

    def start(self, transfer: Transfer) -> None:
        """Start the first message of `transfer`."""
        self._running.append(_Running(transfer))
        self.advance()

    def advance(self) -> None:
        """Start the messages whose predecessors have arrived, without waiting."""
        allowed = math.inf
        for running in self._running:
            while running.started < allowed and running.arrived():
                running.proceed()
            allowed = running.started

    def finish(self) -> None:
        """Wait until all transfers are complete."""
        self.advance()
        for running in self._running:
            while running.work is not None:
                running.proceed()
                self.advance()
        self._running.clear()


class _Running:
    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self.started: float = 1
        """Number of messages started; infinite after the last one has arrived."""
        self.work = next(transfer)

    def arrived(self) -> bool:
        return self.work is not None and self.work.is_completed()

    def proceed(self) -> None:
        """Wait for the message and start the next one."""
        assert self.work is not None
        # Its type is not declared.
        self.work.wait()  # pyright: ignore[reportUnknownMemberType]
        self.work = next(self._transfer, None)
        self.started = math.inf if self.work is None else self.started + 1
