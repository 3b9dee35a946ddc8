"""Packs token documents and conversations into rows of T + 1 ids: T inputs, and targets shifted by one.

Best-fit from a bounded buffer, as in Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv
2404.10830): documents longer than a row are first cut into pieces, every piece starts with a BOS, and a row takes the
largest waiting piece that still fits. Pretraining text then fills each row to the last token by cropping the shortest
piece; conversations are never cut, so the rows of a mixture are padded. The rows depend only on the input and its
order.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from aquarat_core.errors import DataError

BUFFER = 1_000
NUMBERS_AT_ONCE = 10_000
_NUMBER_BITS = 40
_LAST_NUMBER = (1 << _NUMBER_BITS) - 1
MANY_LEFT_OUT = 0.05
"""A warning is logged if a larger share of conversations is too long to be used."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a flat file of documents that make up each row."""

    starts: npt.NDArray[np.int64]
    """[P] start of each piece; the id there is replaced by a BOS (at a document's start it already is one)."""
    lengths: npt.NDArray[np.integer]
    """[P] number of ids in each piece, including the BOS."""
    first: npt.NDArray[np.int64]
    """[N + 1] index of the first piece of each row."""
    tokens: int
    """Number of input ids, including the BOS of each piece."""

    def __len__(self) -> int:
        return len(self.first) - 1

    def pieces(self, row: int) -> Iterator[tuple[int, int]]:
        """Start and length of the pieces of a row."""
        part = slice(self.first[row], self.first[row + 1])
        return zip(self.starts[part].tolist(), self.lengths[part].tolist(), strict=True)

    @property
    def cropped(self) -> float:
        """Share of the input ids that are in no row."""
        return 1 - int(self.lengths.sum()) / self.tokens


class PlannedRows:
    """Rows of a plan, assembled on demand from the shards that the plan was made for."""

    def __init__(self, shards: Sequence[npt.NDArray[np.integer]], plan: Plan, bos: int) -> None:
        self.plan, self._shards, self._bos = plan, shards, bos
        # numpy's stubs do not declare the return type of `tolist`.
        self._edges: list[int] = np.cumsum([0, *(len(shard) for shard in shards)]).tolist()

    def __len__(self) -> int:
        return len(self.plan)

    def fill(self, row: int, out: npt.NDArray[np.integer]) -> None:
        """Write the ids of a row to `out` [T + 1]."""
        at = 0
        for start, length in self.plan.pieces(row):
            shard = bisect_right(self._edges, start) - 1
            begin = start - self._edges[shard]
            out[at : at + length] = self._shards[shard][begin : begin + length]
            out[at] = self._bos
            at += length


@dataclass(frozen=True, slots=True)
class PackedText:
    """Rows of pretraining text in memory."""

    ids: npt.NDArray[np.integer]
    """[N, T + 1], uint16 or int32; no padding."""
    plan: Plan

    @property
    def tokens(self) -> int:
        return self.plan.tokens

    @property
    def cropped(self) -> float:
        return self.plan.cropped


@dataclass(frozen=True, slots=True)
class ConversationPlan:
    """The conversations that make up each row; the rest of a row is padding."""

    order: npt.NDArray[np.int64]
    """[K] numbers of the conversations that are in a row, row after row."""
    first: npt.NDArray[np.int64]
    """[N + 1] index in `order` where each row begins."""
    too_long: int
    """Number of conversations left out because they are longer than a row."""
    tokens: int
    """Number of ids of the conversations that are in a row."""

    def __len__(self) -> int:
        return len(self.first) - 1

    def row(self, i: int) -> list[int]:
        """The numbers of the conversations in a row, in order."""
        # numpy's stubs do not declare the return type of `tolist`.
        return self.order[self.first[i] : self.first[i + 1]].tolist()

    def padding(self, T: int) -> float:
        """Share of padding in the ids of the rows."""
        return 1 - self.tokens / (len(self) * (T + 1))


def id_dtype(vocab_size: int) -> type[np.integer]:
    """uint16 if it can hold every id, otherwise int32."""
    return np.uint16 if vocab_size <= 1 << 16 else np.int32


def pack_documents(
    documents: Iterable[Sequence[int]], T: int, bos: int, vocab_size: int, buffer: int = BUFFER
) -> PackedText:
    """Applies `plan_documents` to `documents`, ids without BOS, and assembles the rows in memory."""
    dtype = id_dtype(vocab_size)
    parts = [np.asarray((bos, *ids), dtype) for ids in documents]
    plan = plan_documents(np.array([len(part) for part in parts], np.int64), T, buffer)
    if not len(plan):
        raise too_little_text(plan.tokens, T)
    rows, packed = PlannedRows([np.concatenate(parts)], plan, bos), np.empty((len(plan), T + 1), dtype)
    for row, out in enumerate(packed):
        rows.fill(row, out)
    return PackedText(packed, plan)


def too_little_text(tokens: int, T: int) -> DataError:
    """The error for documents that do not fill one row."""
    return DataError(f"{tokens:,} tokens of text do not fill one row of {T + 1}: give more text")


def plan_documents(documents: npt.NDArray[np.integer], T: int, buffer: int = BUFFER) -> Plan:
    """Plans rows of T + 1 ids from a flat file of `documents`: [D] number of ids of each, a BOS among them.

    If no waiting piece fits into the rest of a row, the shortest one is cropped to it. A remainder at the end that
    does not fill a row is left out, so there may be no row.
    """
    starts, lengths = _pieces(documents, T)
    # One integer orders the waiting pieces by length and, among equals, the newest first.
    keys: list[int] = ((lengths << _NUMBER_BITS) - np.arange(len(lengths), dtype=np.int64)).tolist()
    waiting, coming = sorted(keys[:buffer]), iter(keys[buffer:])
    row: list[int] = []
    # As Python objects these would be the largest thing in memory.
    taken, first, cropped = array("q"), array("q", [0]), array("q")
    while waiting:
        free = T + 1
        while free > 0 and waiting:
            fitting = bisect_left(waiting, (free << _NUMBER_BITS) + 1)
            key = waiting.pop(fitting - 1 if fitting else 0)
            if (arrived := next(coming, None)) is not None:
                insort(waiting, arrived)
            row.append(key)
            free -= (key + _LAST_NUMBER) >> _NUMBER_BITS
        if free <= 0:
            taken.extend(row)
            first.append(len(taken))
            cropped.append(-free)
        row.clear()
    numbers = -np.array(taken, np.int64) & _LAST_NUMBER
    edges, kept = np.array(first, np.int64), lengths[numbers]
    kept[edges[1:] - 1] -= np.array(cropped, np.int64)
    return Plan(starts[numbers], kept, edges, int(lengths.sum()))


def _pieces(documents: npt.NDArray[np.integer], T: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Starts and lengths of the documents in their file, cut into pieces where they are longer than T.

    A piece that starts within a document includes the position before it, which will hold its BOS.
    """
    sizes = documents.astype(np.int64)
    ends = np.cumsum(sizes)
    counts = -(-(sizes - 1) // T)
    before = np.arange(counts.sum(), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(ends - sizes, counts) + T * before
    return starts, np.minimum(np.repeat(ends, counts) - starts, T + 1)


def plan_conversations(lengths: npt.NDArray[np.int64], T: int, buffer: int = BUFFER) -> ConversationPlan:
    """Plans rows of T + 1 ids from whole conversations with these `lengths`, in this order.

    A row starts with the conversation that has waited longest, so rows roughly keep the input order. A conversation
    longer than a row is left out and counted. Raises `DataError` if none is left.
    """
    fitting = np.flatnonzero(lengths <= T + 1)
    too_long = len(lengths) - len(fitting)
    waiting = _Waiting(_with_lengths(fitting, lengths), buffer)
    # As Python objects these would be the largest thing in memory.
    order, first = array("q"), array("q", [0])
    while waiting.fill():
        oldest = waiting.pop_oldest()
        order.append(oldest)
        free = T + 1 - int(lengths[oldest])
        while waiting.fill() and (item := waiting.pop_largest(free)) is not None:
            order.append(item)
            free -= int(lengths[item])
        first.append(len(order))
    if not order:
        raise DataError(f"none of {too_long} conversations fits a row of {T + 1} tokens: raise model.sequence_len")
    return ConversationPlan(np.array(order, np.int64), np.array(first, np.int64), too_long, waiting.tokens)


def _with_lengths(numbers: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Each of `numbers` after the length with that number; few of them are Python objects at once."""
    for start in range(0, len(numbers), NUMBERS_AT_ONCE):
        part = numbers[start : start + NUMBERS_AT_ONCE]
        yield from zip(lengths[part].tolist(), part.tolist(), strict=True)


_Item = TypeVar("_Item")


class _Waiting(Generic[_Item]):
    """A bounded buffer of items with lengths, which can be found by length and by age."""

    def __init__(self, source: Iterable[tuple[int, _Item]], capacity: int) -> None:
        self._source = iter(source)
        self._capacity = capacity
        self._items: dict[int, tuple[int, _Item]] = {}  # by number of arrival, oldest first
        self._by_length: list[tuple[int, int]] = []  # (length, -number): among equals the oldest is last
        self._arrived = 0
        self.tokens = 0

    def fill(self) -> bool:
        """Take items from the source until the buffer is full; returns False if none is left anywhere."""
        while len(self._items) < self._capacity and (arrived := next(self._source, None)) is not None:
            self._items[self._arrived] = arrived
            insort(self._by_length, (arrived[0], -self._arrived))
            self._arrived += 1
            self.tokens += arrived[0]
        return bool(self._items)

    def pop_largest(self, space: int) -> _Item | None:
        """The largest item of at most `space` tokens; among equals, the oldest."""
        i = bisect_right(self._by_length, (space, 1))
        return self._pop(i - 1) if i else None

    def pop_oldest(self) -> _Item:
        number, (length, _) = next(iter(self._items.items()))
        return self._pop(bisect_left(self._by_length, (length, -number)))

    def _pop(self, i: int) -> _Item:
        return self._items.pop(-self._by_length.pop(i)[1])[1]
