"""Conversations as Parquet: what `chat_datasets` writes, one file for each source and split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from aquarat_core.conversation import Conversation
from aquarat_core.data.parquet import read_table, write_table

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ]
)


def write_conversations(path: str | Path, rows: Sequence[Conversation]) -> None:
    """Write `rows` as Parquet with the columns of `SCHEMA`."""
    columns = {"id": [c.id for c in rows], "messages": [c.messages for c in rows]}
    write_table(path, pa.Table.from_pydict(columns, schema=SCHEMA))


def read_conversations(path: str | Path) -> list[Conversation]:
    """Read what `write_conversations` wrote. Raises `DataError` if the columns are not those."""
    return [Conversation(**row) for row in read_table(path, SCHEMA, "conversations").to_pylist()]
