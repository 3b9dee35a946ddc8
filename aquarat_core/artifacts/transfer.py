"""Moving bytes in bounded memory: hashed once, beside the copying; fetched in parallel and put in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

from aquarat_core.artifacts.hashing import Digest, Hasher

T = TypeVar("T")

Advance = Callable[[int], None]
"""Told of bytes as they pass; a negative number takes back what has to be sent again."""

PIECE = 256 << 10
"""Bytes read, hashed and written at a time: few enough to stay in the processor's cache meanwhile."""
FILES_AT_ONCE = 4
_HASH_BACKLOG = 64


def ignore(_: int) -> None:
    """The `Advance` of whom nobody watches."""


class HashedWriter:
    """Writes pieces to `sink`, in order, while a thread of its own hashes them: both release the interpreter."""

    def __init__(self, sink: BinaryIO | None, advance: Advance = ignore) -> None:
        self._sink = sink
        self._advance = advance
        self._hasher = Hasher()
        self._thread = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> HashedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def write(self, piece: bytes) -> None:
        self.skip(piece)
        if self._sink is not None:
            self._sink.write(piece)
        self._advance(len(piece))

    def skip(self, piece: bytes) -> None:
        """Hashes a piece that is in its place already."""
        if len(piece) < PIECE and not self._pending:
            self._hasher.update(piece)
        else:
            self._pending.append(self._thread.submit(self._hasher.update, piece))
            while len(self._pending) > _HASH_BACKLOG:
                self._pending.popleft().result()

    def digest(self) -> Digest:
        while self._pending:
            self._pending.popleft().result()
        return self._hasher.digest()


def pieces(source: BinaryIO) -> Iterator[bytes]:
    """The bytes of `source` from where it stands to its end."""
    while piece := source.read(PIECE):
        yield piece


def copy(source: BinaryIO, sink: BinaryIO | None, advance: Advance = ignore) -> Digest:
    """Copies to `sink`, or only reads where that is None; returns the digest of the bytes that passed."""
    with HashedWriter(sink, advance) as writer:
        for piece in pieces(source):
            writer.write(piece)
        return writer.digest()


def keep_prefix(writer: HashedWriter, target: Path, have: int) -> None:
    """Hashes the first `have` bytes of `target`, which an earlier attempt left there."""
    with target.open("rb", buffering=0) as f:
        left = have
        while left and (piece := f.read(min(PIECE, left))):
            writer.skip(piece)
            left -= len(piece)


def in_order(pool: Executor, tasks: Iterable[Callable[[], T]], window: int) -> Iterator[T]:
    """Results of the tasks in their order; at most `window` run or wait to be taken at a time."""
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


def each(function: Callable[[T], object], items: Iterable[T], at_once: int = FILES_AT_ONCE) -> list:
    """`function` of every item, several at once, results in order; the first error ends it."""
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
