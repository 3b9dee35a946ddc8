"""Examples as Parquet: what `chat_datasets` writes of a task, one file for each task and split.

An example is stored as it is rendered, so that who trains on it needs neither its rows nor its task's code. The answer,
which only the task looks into, is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from aquarat_core.data.parquet import read_table, write_table
from aquarat_core.errors import DataError
from aquarat_core.tasks.task import A, Example, FilePath, Task

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("target", pa.string()),
        ("reference", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
    ]
)


class StoredTask(Task[A]):
    """A task whose examples are in such files, with its name."""

    def examples(self, path: FilePath, split: str) -> list[Example[A]]:
        return list(read_examples(path(f"{self.name}.{split}.parquet")))


def write_examples(path: str | Path, examples: Iterable[Example[Any]]) -> int:
    """Write examples whose answers are JSON values, and return how many they were."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for e in examples:
        row = (e.id, list(e.messages), e.target, e.reference, list(e.choices), json.dumps(e.answer, ensure_ascii=False))
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    write_table(path, pa.Table.from_pydict(columns, schema=SCHEMA))
    return len(columns["id"])


def read_examples(path: str | Path) -> Iterator[Example[Any]]:
    """Read what `write_examples` wrote. Raises `DataError` if the columns are not those."""
    for number, row in enumerate(read_table(path, SCHEMA, "examples of a task").to_pylist()):
        try:
            answer = json.loads(row["answer"])
        except (TypeError, ValueError):
            raise DataError(f"{path}, row {number}: its answer is not JSON; chat_datasets did not write it") from None
        yield Example(
            id=row["id"],
            messages=tuple(row["messages"]),
            target=row["target"],
            answer=answer,
            reference=row["reference"],
            choices=tuple(row["choices"]),
        )
