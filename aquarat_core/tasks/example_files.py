"""Examples as Parquet: what `chat_datasets` writes of a task, one file for each task and split.

An example is stored as it is rendered, so that who trains on it needs neither its rows nor its task's code. The answer,
which only the task looks into, is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.data.conversations import PARTS
from aquarat_core.data.parquet import read_parts, write_table
from aquarat_core.errors import DataError
from aquarat_core.tasks.task import A, Example, FilePath, Task

_COLUMNS = [
    ("id", pa.string()),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ("target", pa.string()),
    ("reference", pa.string()),
    ("choices", pa.list_(pa.string())),
    ("answer", pa.string()),
]
SCHEMA = pa.schema(_COLUMNS)
WITH_PARTS = pa.schema([*_COLUMNS, ("target_parts", PARTS)])
"""Where some target of the file calls a tool."""


class StoredTask(Task[A]):
    """A task whose examples are in such files, with its name."""

    def examples(self, path: FilePath, split: str) -> list[Example[A]]:
        return list(self.iterate(path, split))

    def iterate(self, path: FilePath, split: str) -> Iterator[Example[A]]:
        return read_examples(path(f"{self.name}.{split}.parquet"))


def write_examples(path: str | Path, examples: Sequence[Example[Any]]) -> None:
    """Write examples whose answers are JSON values, with the columns of `SCHEMA`, or of `WITH_PARTS` if a target has
    parts."""
    schema = WITH_PARTS if any(e.target_parts for e in examples) else SCHEMA
    columns: dict[str, list[Any]] = {
        **{name: [getattr(e, name) for e in examples] for name in schema.names},
        "messages": [list(e.messages) for e in examples],
        "answer": [json.dumps(e.answer, ensure_ascii=False) for e in examples],
    }
    write_table(path, pa.Table.from_pydict(columns, schema=schema))


def holds_examples(path: Path) -> bool:
    """Whether a Parquet file is one of examples, not of conversations."""
    # The stubs leave open of what the schema is.
    return {"target", "reference"} <= set(pq.read_schema(path).names)  # pyright: ignore[reportUnknownMemberType]


def read_examples(path: Path) -> Iterator[Example[Any]]:
    """Read what `write_examples` wrote, part by part. Raises `DataError` if it did not write the file."""
    number = 0
    for part in read_parts(path, WITH_PARTS, "examples of a task", optional=("target_parts",)):
        for row in part.to_pylist():
            yield _example(row, f"{path}, row {number}")
            number += 1


def _example(row: dict[str, Any], where: str) -> Example[Any]:
    try:
        return Example(
            id=row["id"],
            messages=tuple(row["messages"]),
            target=row["target"],
            answer=json.loads(row["answer"]),
            reference=row["reference"],
            choices=tuple(row["choices"]),
            target_parts=tuple(row.get("target_parts", ())),
        )
    except (TypeError, ValueError):
        raise DataError(f"{where}: it is no example of a task; chat_datasets did not write it") from None
