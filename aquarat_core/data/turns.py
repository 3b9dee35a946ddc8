"""Many conversations at once as Arrow columns, and files of conversations read in parts.

A Python object for each message of half a million conversations takes gigabytes and half a minute; columns take
neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aquarat_core.conversation import Message
from aquarat_core.data.conversations import SCHEMA, WITH_PARTS, messages_of
from aquarat_core.data.parquet import lacking, read_ids, read_parts, rows_taken

WHAT = "conversations"
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Turns:
    """N conversations with M messages in total."""

    first: Ints
    """[N + 1] index of the first message of each conversation, then M."""
    roles: pa.StringArray
    """[M] without nulls."""
    texts: pa.StringArray
    """[M] without nulls."""
    apart: dict[int, list[Message]] = field(default_factory=dict[int, list[Message]])
    """Conversations with messages that are more than a role and a text, by number; their messages are not among the
    M."""

    def __len__(self) -> int:
        return len(self.first) - 1

    @classmethod
    def of(cls, conversations: Sequence[list[Message]]) -> Turns:
        """Converts conversations to columns."""
        apart = {i: messages for i, messages in enumerate(conversations) if any("parts" in m for m in messages)}
        columns = [() if i in apart else messages for i, messages in enumerate(conversations)]
        return cls(
            edges(np.array([len(messages) for messages in columns], np.int64)),
            pa.array([m["role"] for messages in columns for m in messages], pa.string()),
            pa.array([m["content"] for messages in columns for m in messages], pa.string()),
            apart,
        )

    def take(self, numbers: Ints) -> Turns:
        """The conversations with these numbers, in ascending order."""
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
    """[n + 1] the start of each of n consecutive groups with sizes `counts` [n], and the end of the last."""
    found = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=found[1:])
    return found


class ConversationFile:
    """The conversations of a file that `write_conversations` wrote, by row.

    Holds about a megabyte of it in memory at a time. Methods raise `DataError` if the file is damaged or does not
    contain conversations.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads nothing until it is needed."""
        self._path = Path(path)

    def __len__(self) -> int:
        return sum(1 for _ in self.ids())

    def ids(self) -> Iterator[str]:
        """The ids of all rows."""
        return read_ids(self._path, SCHEMA, WHAT)

    def turns(self, rows: Ints) -> Iterator[Turns]:
        """The conversations of `rows`, which must ascend, in parts of about a megabyte."""
        return rows_taken(self.parts(), rows)

    def parts(self) -> Iterator[Turns]:
        """All rows, in parts of about a megabyte."""
        for part in read_parts(self._path, WITH_PARTS, WHAT, optional=("parts",)):
            if "parts" in part.schema.names:
                yield Turns.of([messages_of(self._path, row) for row in part.to_pylist()])
                continue
            # The stubs do not declare the types in lists and structs.
            messages = cast("Any", part["messages"])
            turns: Any = messages.flatten()
            roles, texts = turns.flatten()
            if messages.null_count or roles.null_count or texts.null_count:
                raise lacking(self._path, WHAT, "a role or a text")
            first = messages.offsets.to_numpy().astype(np.int64)
            yield Turns(first - first[0], roles, texts)
