"""Conversations as Parquet: what `chat_datasets` writes, one file for each source and split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.conversation import Conversation
from aquarat_core.data.parquet import read_table

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ]
)


def write_conversations(path: str | Path, rows: Sequence[Conversation]) -> None:
    """Write `rows` as Parquet with the columns of `SCHEMA`."""
    pq.write_table(pa.table([[c.id for c in rows], [c.messages for c in rows]], schema=SCHEMA), path)


def read_conversations(path: str | Path) -> list[Conversation]:
    """Read what `write_conversations` wrote. Raises `DataError` if the columns are not those."""
    return [Conversation(**row) for row in read_table(path, SCHEMA, "conversations").to_pylist()]
