"""Transfers bytes in bounded memory: hashed once, while they are copied, and fetched in parallel but used in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

from aquarat_core.artifacts.hashing import Digest, Hasher

T = TypeVar("T")
R = TypeVar("R")

OnBytes = Callable[[int], None]
"""Called with the number of bytes transferred since the last call; negative if bytes have to be sent again."""

PIECE = 256 << 10
"""Bytes taken from the network, hashed and written at a time."""
FILES_AT_ONCE = 4
_HASH_BACKLOG = 16 << 20
"""Limit on the bytes that wait to be hashed."""


def no_progress(_: int) -> None:
    """An `OnBytes` callback that does nothing."""


class HashedWriter:
    """Writes pieces to `sink` in order while a thread of its own hashes them; both release the interpreter lock."""

    def __init__(self, sink: BinaryIO | None, advance: OnBytes = no_progress) -> None:
        self._sink = sink
        self._advance = advance
        self._hasher = Hasher()
        self._thread = ThreadPoolExecutor(1)
        self._pending: deque[Future[int]] = deque()
        self._backlog = 0

    def __enter__(self) -> HashedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def write(self, *pieces: bytes) -> None:
        """Writes and hashes the pieces. Passing several at once reduces synchronization between the two threads."""
        size = sum(map(len, pieces))
        if not self._pending and size < PIECE:
            self._hash(pieces)
        else:
            self._pending.append(self._thread.submit(self._hash, pieces))
            self._backlog += size
            while self._backlog > _HASH_BACKLOG:
                self._backlog -= self._pending.popleft().result()
        for piece in pieces:
            if self._sink is not None:
                self._sink.write(piece)
            self._advance(len(piece))

    def keep(self, path: Path, length: int) -> None:
        """Hashes the first `length` bytes of a file, which an earlier attempt wrote."""
        with path.open("rb", buffering=0) as f:
            self._hasher.read(f, length)

    def digest(self) -> Digest:
        while self._pending:
            self._pending.popleft().result()
        return self._hasher.digest()

    def _hash(self, pieces: tuple[bytes, ...]) -> int:
        for piece in pieces:
            self._hasher.update(piece)
        return sum(map(len, pieces))


def in_order(pool: Executor, tasks: Iterable[Callable[[], T]], window: int) -> Iterator[T]:
    """Results of the tasks in order; at most `window` tasks run, or wait for their result to be taken, at a time."""
    running: deque[Future[T]] = deque()
    try:
        for task in tasks:
            running.append(pool.submit(task))
            if len(running) >= window:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def parallel_map(function: Callable[[T], R], items: Iterable[T], at_once: int = FILES_AT_ONCE) -> list[R]:
    """Applies `function` to every item, at most `at_once` at a time; results in order. Raises the first error."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(at_once, len(items))) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
