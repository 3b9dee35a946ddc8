"""Conversations as Parquet, the output of `chat_datasets`: one file for each source and split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from aquarat_core.conversation import Conversation, Message, Part
from aquarat_core.data.parquet import read_parts, write_table
from aquarat_core.errors import DataError

_COLUMNS = [
    ("id", pa.string()),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
]
PARTS = pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))
SCHEMA = pa.schema(_COLUMNS)
WITH_PARTS = pa.schema([*_COLUMNS, ("parts", pa.list_(PARTS))])
"""Adds the parts of each message, empty for a text-only message; used only if any message of the file has parts."""


def write_conversations(path: str | Path, rows: Sequence[Conversation]) -> None:
    """Write `rows` as Parquet with the columns of `SCHEMA`, or of `WITH_PARTS` if any message has parts."""
    messages = [[{"role": m["role"], "content": m["content"]} for m in c.messages] for c in rows]
    columns: dict[str, Any] = {"id": [c.id for c in rows], "messages": messages}
    schema = SCHEMA
    if any("parts" in m for c in rows for m in c.messages):
        columns["parts"] = [[m.get("parts", ()) for m in c.messages] for c in rows]
        schema = WITH_PARTS
    write_table(path, pa.Table.from_pydict(columns, schema=schema))


def read_conversations(path: str | Path) -> list[Conversation]:
    """Read a file of `write_conversations`. Raises `DataError` if the columns are different."""
    return list(iterate_conversations(Path(path)))


def iterate_conversations(path: Path) -> Iterator[Conversation]:
    """Like `read_conversations`, in bounded memory."""
    for part in read_parts(path, WITH_PARTS, "conversations", optional=("parts",)):
        yield from (Conversation(row["id"], messages_of(path, row)) for row in part.to_pylist())


def messages_of(path: str | Path, row: dict[str, Any]) -> list[Message]:
    """The messages of a row, including their parts."""
    messages: list[Message] = row["messages"]
    parts: list[list[Part]] = row.get("parts") or []
    if parts:
        if len(parts) != len(messages):
            raise DataError(f"{path}: {row['id']} has {len(messages)} messages but parts of {len(parts)}")
        for message, its in zip(messages, parts, strict=True):
            if its:
                message["parts"] = its
    return messages
