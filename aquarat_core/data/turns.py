"""Many conversations at once, as columns of Arrow, and files of conversations read part by part.

A Python object for each message of half a million conversations takes gigabytes and half a minute; columns take
neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aquarat_core.conversation import Message
from aquarat_core.data.conversations import SCHEMA, WITH_PARTS, messages_of
from aquarat_core.data.parquet import read_parts
from aquarat_core.errors import DataError

WHAT = "conversations"
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Turns:
    """N conversations of M messages together."""

    first: Ints
    """[N + 1] the first message of each conversation, and M."""
    roles: pa.StringArray
    """[M] without nulls."""
    texts: pa.StringArray
    """[M] without nulls."""
    apart: dict[int, list[Message]] = field(default_factory=dict[int, list[Message]])
    """Conversations with messages that are more than a role and a text, by their number; they have none of the M."""

    def __len__(self) -> int:
        return len(self.first) - 1

    @classmethod
    def of(cls, conversations: Sequence[list[Message]]) -> Turns:
        """The same as columns."""
        apart = {i: messages for i, messages in enumerate(conversations) if any("parts" in m for m in messages)}
        columns = [() if i in apart else messages for i, messages in enumerate(conversations)]
        return cls(
            edges(np.array([len(messages) for messages in columns], np.int64)),
            pa.array([m["role"] for messages in columns for m in messages], pa.string()),
            pa.array([m["content"] for messages in columns for m in messages], pa.string()),
            apart,
        )

    def take(self, numbers: Ints) -> Turns:
        """The conversations of these numbers, which ascend."""
        if len(numbers) == len(self):
            return self
        counts = np.diff(self.first)
        wanted = np.zeros(len(self), np.bool_)
        wanted[numbers] = True
        messages = np.flatnonzero(np.repeat(wanted, counts))
        apart = {i: self.apart[n] for i, n in enumerate(numbers.tolist()) if n in self.apart}
        return Turns(edges(counts[wanted]), self.roles.take(messages), self.texts.take(messages), apart)

    def messages(self, i: int) -> list[Message]:
        """Conversation i."""
        if i in self.apart:
            return self.apart[i]
        part = slice(int(self.first[i]), int(self.first[i + 1]))
        columns = zip(self.roles[part].to_pylist(), self.texts[part].to_pylist(), strict=True)
        return [{"role": cast("str", role), "content": cast("str", text)} for role, text in columns]


def edges(counts: npt.NDArray[np.integer | np.bool_]) -> Ints:
    """[n + 1] where each of `counts` [n] things that lie one behind another begins, and where the last ends."""
    found = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=found[1:])
    return found


class ConversationFile:
    """The conversations of a file that `write_conversations` wrote, by their row.

    The ids are held in memory, of the rest about a megabyte. Methods raise `DataError` if the file is damaged or
    does not hold conversations.
    """

    def __init__(self, path: str | Path) -> None:
        """Nothing is read before it is asked for."""
        self._path = Path(path)

    def __len__(self) -> int:
        return len(self._ids)

    def id(self, row: int) -> str:
        return self._ids[row]

    def turns(self, rows: Ints) -> Iterator[Turns]:
        """The conversations of `rows`, which ascend, in parts of about a megabyte."""
        base = 0
        for part in self._parts():
            low, high = np.searchsorted(rows, (base, base + len(part)))
            if high > low:
                yield part.take(rows[low:high] - base)
            if high == len(rows):
                return
            base += len(part)

    @cached_property
    def _ids(self) -> list[str]:
        ids: list[str | None] = []
        for part in read_parts(self._path, SCHEMA, WHAT, ["id"]):
            ids += cast("pa.StringArray", part["id"]).to_pylist()
        if None in ids:
            raise self._lacks("an id")
        return cast("list[str]", ids)

    def _parts(self) -> Iterator[Turns]:
        """All rows, in parts of about a megabyte."""
        for part in read_parts(self._path, WITH_PARTS, WHAT, optional=("parts",)):
            if "parts" in part.schema.names:
                yield Turns.of([messages_of(self._path, row) for row in part.to_pylist()])
                continue
            # The stubs leave open what is in lists and structs.
            messages = cast("Any", part["messages"])
            turns: Any = messages.flatten()
            roles, texts = turns.flatten()
            if messages.null_count or roles.null_count or texts.null_count:
                raise self._lacks("a role or a text")
            first = messages.offsets.to_numpy().astype(np.int64)
            yield Turns(first - first[0], roles, texts)

    def _lacks(self, what: str) -> DataError:
        return DataError(f"{self._path} does not hold a table of {WHAT} ({what} is missing)")
