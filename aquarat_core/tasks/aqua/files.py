"""AQuA-RAT questions as Parquet: the output of `aqua_dataset`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from aquarat_core.data.conversations import PARTS
from aquarat_core.data.parquet import read_parts, write_table
from aquarat_core.errors import DataError
from aquarat_core.tasks.aqua.question import LETTERS, Question

_COLUMNS = [
    ("id", pa.string()),
    ("question", pa.string()),
    ("options", pa.list_(pa.string())),
    ("rationale", pa.string()),
    ("correct", pa.string()),
    ("family", pa.string()),
    ("level", pa.int32()),
]
SCHEMA = pa.schema(_COLUMNS)
_OPTIONAL = [("rationale_parts", PARTS), ("reached", pa.bool_())]
"""Columns of a file in which any rationale calls the calculator, or was normalized."""


def write_questions(path: str | Path, rows: Sequence[Question]) -> None:
    """Write `rows` as Parquet with the columns of `SCHEMA`, and those of `_OPTIONAL` that any row has."""
    there = [any(q.rationale_parts for q in rows), any(q.reached is not None for q in rows)]
    schema = pa.schema([*_COLUMNS, *(column for column, wanted in zip(_OPTIONAL, there, strict=True) if wanted)])
    columns = {name: [getattr(q, name) for q in rows] for name in schema.names}
    write_table(path, pa.Table.from_pydict(columns, schema=schema))


def read_questions(path: str | Path) -> list[Question]:
    """Read a file of `write_questions`. Raises `DataError` if the columns are different."""
    return list(iterate_questions(Path(path)))


def iterate_questions(path: Path) -> Iterator[Question]:
    """Like `read_questions`, in bounded memory."""
    number = 0
    optional = [name for name, _ in _OPTIONAL]
    for part in read_parts(path, pa.schema([*_COLUMNS, *_OPTIONAL]), "AQuA questions", optional=optional):
        rows: list[dict[str, Any]] = part.to_pylist()
        for row in rows:
            options = row["options"] or ()
            if None in row.values() or None in options or row["correct"] not in LETTERS[: len(options)]:
                what = "is not an AQuA question: the file was not written by aqua_dataset"
                raise DataError(f"{path}, row {number} {what}")
            row["options"] = tuple(options)
            row["rationale_parts"] = tuple(row.get("rationale_parts", ()))
            yield Question(**row)
            number += 1
