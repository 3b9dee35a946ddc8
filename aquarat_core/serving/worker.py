"""The thread that owns torch: it generates for all requests of the server, in one running batch per model.

Requests come from the event loop and join a batch when a row is free; their tokens go back to the event loop while the
batch goes on. All computation of the server happens in this thread, so nothing needs a lock but its list of orders.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch

from aquarat_core.api import Model
from aquarat_core.errors import UserError
from aquarat_core.rollout.batch import Batch, Drawn, Request

T = TypeVar("T")
Ending = Literal["stop", "length", "failed"]
SECONDS_PER_ROW = 0.001
"""Tokens are handed to the event loop in intervals of at least this time for each row, because handing them over and
sending them costs as much as computing them: with one row every token, with 64 rows 16 times a second."""
THREADS_VARIABLE = "OMP_NUM_THREADS"
"""Environment variable by which the user chooses the number of torch's threads."""
_log = logging.getLogger(__name__)


class BusyError(UserError):
    """More requests are waiting than the server accepts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one model of the server can be asked for at a time."""

    rows: int
    """Completions that are generated at the same time."""
    waiting: int
    """Further ones that wait for a row."""
    max_new_tokens: int
    """Maximum number of tokens of a completion."""


@dataclass(slots=True, eq=False)
class Stream:
    """The tokens of one completion, for one reader in the event loop."""

    arrived: list[Drawn] = field(default_factory=list[Drawn])
    ending: Ending | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self) -> list[Drawn]:
        """The tokens that came since the last call, at least one; none once the completion has ended."""
        while not self.arrived and self.ending is None:
            self._changed.clear()
            await self._changed.wait()
        taken, self.arrived = self.arrived, []
        return taken

    def put(self, drawn: list[Drawn], ending: Ending | None) -> None:
        """Called in the event loop."""
        self.arrived += drawn
        self.ending = self.ending or ending
        self._changed.set()


@dataclass(slots=True)
class _Running:
    """A model with its batch, and the streams of its completions by number."""

    model: Model
    batch: Batch
    limits: Limits
    streams: dict[int, Stream] = field(default_factory=dict[int, Stream])
    unsent: dict[int, list[Drawn]] = field(default_factory=dict[int, list[Drawn]])
    sent_at: float = 0.0


@dataclass(slots=True)
class Counts:
    """What the worker has done, for the server's metrics."""

    tokens: int = 0
    steps: int = 0
    completions: int = 0


class Worker:
    """Generates with several models in one thread, from `start` until `close`."""

    def __init__(self, models: Mapping[str, Model], limits: Mapping[str, Limits]) -> None:
        self.counts = {name: Counts() for name in models}
        self._orders: deque[Callable[[], None]] = deque()
        self._work: deque[Callable[[], None]] = deque()
        """Orders that take as long as a step or longer."""
        self._wake = threading.Condition()
        self._closing = False
        self._next = 0
        self._queued = dict.fromkeys(models, 0)
        """Completions of each model that were asked for and have not ended."""
        self._running: dict[str, _Running] = {}
        self._models, self.limits = dict(models), dict(limits)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="torch", daemon=True)

    def start(self) -> None:
        """Allocate the batches and begin. Call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        for name, model in self._models.items():
            self._running[name] = _Running(model, self._batch(name), self.limits[name])
        self._thread.start()

    def close(self) -> None:
        """End the thread after its current step; completions that have not ended fail."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def busy(self, name: str) -> tuple[int, int]:
        """Completions of a model that are generated, and that wait."""
        asked, rows = self._queued[name], self.limits[name].rows
        return min(asked, rows), max(0, asked - rows)

    # --- orders, from the event loop -------------------------------------------------------------------------------

    def ask(self, name: str, requests: list[Request]) -> list[tuple[int, Stream]]:
        """Start the completions of requests with one key each; returns their numbers and streams.

        The requests' own numbers (`first`) are replaced. Raises `BusyError` if too many are waiting.
        """
        limits = self.limits[name]
        if self._queued[name] + len(requests) > limits.rows + limits.waiting:
            raise BusyError(
                f"{self._queued[name]} answers are being generated or waiting, and the server takes no more than "
                f"{limits.rows + limits.waiting}: try again in a moment"
            )
        first, self._next = self._next, self._next + len(requests)
        self._queued[name] += len(requests)
        asked = [(first + i, Stream()) for i in range(len(requests))]

        def order() -> None:
            running = self._running[name]
            for (number, stream), request in zip(asked, requests, strict=True):
                running.streams[number] = stream
                running.batch.add([replace(request, first=number)])

        self._order(order)
        return asked

    def end(self, name: str, numbers: list[int]) -> None:
        """Stop generating these completions, unless they have ended; their streams get no more tokens."""

        def order() -> None:
            running = self._running[name]
            held = [number for number in numbers if number in running.streams]
            started = {row.item for row in running.batch.rows}
            running.batch.end(held)
            for number in held:
                if number not in started:
                    self._finish(name, running, number, "stop")

        self._order(order)

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """The result of `work`, which is done in this worker's thread between two steps: one of them at a time, so that
        answers go on, however much work there is."""
        done: Future[T] = Future()

        def order() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except BaseException as e:
                done.set_exception(e)

        self._order(order, self._work)
        return asyncio.wrap_future(done)

    def _order(self, order: Callable[[], None], queue: deque[Callable[[], None]] | None = None) -> None:
        with self._wake:
            (self._orders if queue is None else queue).append(order)
            self._wake.notify()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _batch(self, name: str) -> Batch:
        limits, model = self.limits[name], self._models[name]
        with torch.inference_mode():
            return model.engine.open(limits.rows, model.config.sequence_len, limits.max_new_tokens)

    @torch.inference_mode()
    def _run(self) -> None:
        if THREADS_VARIABLE not in os.environ:
            # A core is left to the event loop and the clients. OpenMP counts threads for each thread of Python.
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - 1))
        while not self._closing:
            with self._wake:
                while not (self._closing or self._has_work()):
                    self._wake.wait()
            while self._orders:
                self._obey(self._orders.popleft())
            if self._work:
                self._obey(self._work.popleft())
            for name, running in self._running.items():
                if running.streams:
                    self._turn(name, running)
        for name, running in self._running.items():
            self._fail(name, running)

    def _has_work(self) -> bool:
        return bool(self._orders or self._work or any(running.streams for running in self._running.values()))

    def _obey(self, order: Callable[[], None]) -> None:
        try:
            order()
        except Exception:
            _log.exception("an order to the thread of torch failed")

    def _fail(self, name: str, running: _Running) -> None:
        for number in list(running.streams):
            self._finish(name, running, number, "failed")

    def _turn(self, name: str, running: _Running) -> None:
        """One step of a model's batch."""
        try:
            self._step(name, running)
        except Exception:
            _log.exception("%s: generating failed; its %d answers are abandoned", name, len(running.streams))
            self._fail(name, running)
            running.batch = self._batch(name)

    def _step(self, name: str, running: _Running) -> None:
        batch, counts = running.batch, self.counts[name]
        left = batch.harvest()
        for number, completion in batch.completions.items():
            self._finish(name, running, number, "stop" if completion.ended else "length")
        batch.completions.clear()
        if left:
            batch.step()
            counts.steps += 1
            counts.tokens += len(batch.rows)
            for drawn in batch.newest():
                running.unsent.setdefault(drawn.item, []).append(drawn)
        if time.monotonic() - running.sent_at >= SECONDS_PER_ROW * len(batch.rows):
            self._send(running)

    def _finish(self, name: str, running: _Running, number: int, ending: Ending) -> None:
        """Hand over the last tokens of a completion that has ended."""
        stream = running.streams.pop(number, None)
        if stream is None:
            return
        drawn = running.unsent.pop(number, [])
        counts = self.counts[name]
        counts.completions += 1

        def tell() -> None:
            self._queued[name] -= 1
            stream.put(drawn, ending)

        self._tell(tell)

    def _send(self, running: _Running) -> None:
        """Hand over the tokens of all completions that go on."""
        running.sent_at = time.monotonic()
        unsent, running.unsent = running.unsent, {}
        parts = [(stream, drawn) for number, drawn in unsent.items() if (stream := running.streams.get(number))]
        self._tell(lambda: [stream.put(drawn, None) for stream, drawn in parts])

    def _tell(self, what: Callable[[], Any]) -> None:
        """Do it in the event loop, unless that has been closed."""
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            _log.debug("the event loop is closed: tokens are dropped")
