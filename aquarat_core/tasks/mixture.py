"""Deterministic mixtures of conversations and documents for mid-training and SFT.

The position of a row depends only on (seed, source, row, copy): rows are sorted by a hash of these, so no random
generator has to be saved, and adding a source does not reorder the others among themselves. Only positions are mixed;
the rows are read from their source in its own order when they are tokenized.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aquarat_core.config import MixtureEntry
from aquarat_core.config.validation import did_you_mean
from aquarat_core.conversation import Message, without_calls
from aquarat_core.data.mixed_documents import DocumentFile, Texts
from aquarat_core.data.turns import ConversationFile, Turns
from aquarat_core.errors import DataError
from aquarat_core.tasks.decontamination import Row, searched
from aquarat_core.tasks.task import Example, FilePath, Task

PART_ROWS = 500
"""Number of conversations that are yielded together if a source reads them one by one."""


class Source(Protocol):
    """Conversations or documents by row."""

    def __len__(self) -> int: ...

    def copies(self, permutations: int) -> Iterator[tuple[str, int]]:
        """For each row, its id, unique in the source, and the number of ways to show it.

        That is `permutations` if the row can be permuted, one if not.
        """
        ...

    def turns(self, rows: npt.NDArray[np.int64], copy_seeds: Sequence[int | None]) -> Iterator[Turns | Texts]:
        """The conversations or documents of `rows`, which ascend, in parts: as published (None), or as shown under a
        seed."""
        ...

    def searched(self) -> Iterator[Row]:
        """Every row as it is searched for held-out questions."""
        ...


class StoredConversations(Source):
    """A file of conversations with one copy each."""

    def __init__(self, path: Path) -> None:
        self._file = ConversationFile(path)

    def __len__(self) -> int:
        return len(self._file)

    def copies(self, permutations: int) -> Iterator[tuple[str, int]]:
        del permutations
        return ((name, 1) for name in self._file.ids())

    def turns(self, rows: npt.NDArray[np.int64], copy_seeds: Sequence[int | None]) -> Iterator[Turns]:
        del copy_seeds
        return self._file.turns(rows)

    def searched(self) -> Iterator[Row]:
        conversations = (part.messages(i) for part in self._file.parts() for i in range(len(part)))
        for name, messages in zip(self._file.ids(), conversations, strict=True):
            asked = [m["content"] for m in messages if m["role"] == "user"]
            yield Row(name, asked, "\n".join(without_calls(m["content"], m.get("parts", ())) for m in messages))


class StoredDocuments(Source):
    """A file of documents with one copy each."""

    def __init__(self, path: Path) -> None:
        self._file = DocumentFile(path)

    def __len__(self) -> int:
        return len(self._file)

    def copies(self, permutations: int) -> Iterator[tuple[str, int]]:
        del permutations
        return ((name, 1) for name in self._file.ids())

    def turns(self, rows: npt.NDArray[np.int64], copy_seeds: Sequence[int | None]) -> Iterator[Texts]:
        del copy_seeds
        return self._file.texts(rows)

    def searched(self) -> Iterator[Row]:
        """A page may ask a question on any of its lines, with other numbers too."""
        return (Row(found.id, found.text.splitlines(), found.text) for found in self._file.documents())


class TaskExamples(Source):
    """The examples of a task. Copies are shown in other ways if the target allows it.

    Each pass reads the examples again, because as objects they would take more memory than everything else.
    """

    def __init__(self, task: Task[Any], path: FilePath, split: str, answer_only: bool = False) -> None:
        """`path` finds the files of the task's artifact; nothing is read before it is needed. With `answer_only`, the
        targets are answers without solutions."""
        self._task, self._path, self._split, self._answer_only = task, path, split, answer_only

    def without_solutions(self) -> TaskExamples:
        """The same rows with their answers alone."""
        return TaskExamples(self._task, self._path, self._split, answer_only=True)

    def __iter__(self) -> Iterator[Example[Any]]:
        examples = self._task.iterate(self._path, self._split)
        return map(self._task.without_solution, examples) if self._answer_only else iter(examples)

    def __len__(self) -> int:
        return self._length

    def copies(self, permutations: int) -> Iterator[tuple[str, int]]:
        for example in self:
            yield example.id, permutations if permutations > 1 and self._task.is_permutable(example) else 1

    def turns(self, rows: npt.NDArray[np.int64], copy_seeds: Sequence[int | None]) -> Iterator[Turns]:
        """The conversations of `rows`, which ascend, in one pass over the examples."""
        asked = zip(rows.tolist(), copy_seeds, strict=True)
        row, example = -1, None
        examples = enumerate(self)
        part: list[list[Message]] = []
        for wanted, seed in asked:
            while row < wanted:
                row, example = next(examples)
            assert example is not None, "rows are counted from 0"
            part.append(self._shown(example, seed))
            if len(part) == PART_ROWS:
                yield Turns.of(part)
                part = []
        if part:
            yield Turns.of(part)

    def searched(self) -> Iterator[Row]:
        return map(searched, self)

    @cached_property
    def _length(self) -> int:
        return sum(1 for _ in self)

    def _shown(self, example: Example[Any], copy_seed: int | None) -> list[Message]:
        if copy_seed is not None:
            example = self._task.shown(example, copy_seed)
            example = self._task.without_solution(example) if self._answer_only else example
        return example.conversation()


@dataclass(frozen=True, slots=True)
class Part:
    """The distinct conversations or documents that one entry of a mixture takes from its source."""

    source: Source
    rows: npt.NDArray[np.int64]
    """[V] rows of the source, ascending; a row appears once for each way in which it is shown."""
    copy_seeds: Sequence[int | None]
    """[V] the seeds under which they are shown; None means as published."""

    def turns(self) -> Iterator[Turns | Texts]:
        """All of them, in this order."""
        return self.source.turns(self.rows, self.copy_seeds)


@dataclass(frozen=True, slots=True)
class Mixture:
    """The parts that are mixed, and their order."""

    parts: Sequence[Part]
    """One part for each entry."""
    order: npt.NDArray[np.int64]
    """[N] index, over all parts, of the row at each position; repeated rows appear several times."""

    def turns(self) -> Iterator[Turns | Texts]:
        """The conversations and documents of all parts, one part after another."""
        for part in self.parts:
            yield from part.turns()


def whole(source: Source) -> Mixture:
    """All rows of a source as published, in order."""
    rows = np.arange(len(source))
    return Mixture([Part(source, rows, [None] * len(rows))], rows)


def mix(
    entries: Sequence[MixtureEntry],
    sources: Mapping[str, Source],
    seed: int,
    without: Mapping[str, Collection[int]] | None = None,
) -> Mixture:
    """The rows of all `entries` in one shuffled order, except those whose numbers are in `without` by source.

    Copy 0 of a row is as published; the others are shown in another way if the source can do that. Raises
    `DataError` for a name that is not in `sources`, and if an entry skips all rows.
    """
    parts: list[Part] = []
    order, keys, n = array("q"), bytearray(), 0
    for entry in entries:
        source, called = _named(entry.name, sources), entry.name
        if entry.answer_only:
            source, called = _without_solutions(source, entry.name), f"{entry.name} answers"
        rows, seeds = array("q"), list[int | None]()
        left_out = (without or {}).get(entry.name, ())
        there = ((row, *found) for row, found in enumerate(source.copies(entry.permutations)) if row not in left_out)
        end = None if entry.limit is None else entry.skip + entry.limit
        for row, name, copies in islice(there, entry.skip, end):
            published = len(rows)
            rows.append(row)
            seeds.append(None)
            for copy in range(copies * entry.repeat):
                keys += hashlib.blake2b(f"{seed}\0{called}/{name}/{copy}".encode(), digest_size=16).digest()
                if copy % copies:
                    order.append(n + len(rows))
                    rows.append(row)
                    seeds.append(_derived(seed, copy))
                else:
                    order.append(n + published)
        if entry.skip and not rows:
            raise DataError(f"the mixture skips the first {entry.skip} rows of {entry.name}, which leaves none of them")
        parts.append(Part(source, np.array(rows, np.int64), seeds))
        n += len(rows)
    return Mixture(parts, np.array(order, np.int64)[_sorted(keys)])


def _named(name: str, sources: Mapping[str, Source]) -> Source:
    if name in sources:
        return sources[name]
    hint = did_you_mean(name, sources)
    raise DataError(f"the mixture names {name!r}: {hint}there are {', '.join(sorted(sources))}")


def _without_solutions(source: Source, name: str) -> Source:
    if isinstance(source, TaskExamples):
        return source.without_solutions()
    raise DataError(f"the mixture asks for answers of {name} alone (answer_only), but only tasks have them")


def _sorted(keys: bytearray) -> npt.NDArray[np.int64]:
    """Indices that sort keys of 16 bytes in ascending order; the sort is stable."""
    halves = np.frombuffer(keys, ">u8").reshape(-1, 2).astype(np.uint64)
    return np.lexsort((halves[:, 1], halves[:, 0]))


def _derived(seed: int, what: int) -> int:
    """64 bits derived from the seed and a name."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{what}".encode(), digest_size=8).digest(), "big")
