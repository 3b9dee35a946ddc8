"""AQuA-RAT questions as Parquet: what `aqua_dataset` writes and its readers read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from aquarat_core.data.parquet import read_parts, write_table
from aquarat_core.errors import DataError
from aquarat_core.tasks.aqua.question import LETTERS, Question

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("rationale", pa.string()),
        ("correct", pa.string()),
        ("family", pa.string()),
        ("level", pa.int32()),
    ]
)


def write_questions(path: str | Path, rows: Sequence[Question]) -> None:
    """Write `rows` as Parquet with the columns of `SCHEMA`."""
    columns = {name: [getattr(q, name) for q in rows] for name in SCHEMA.names}
    write_table(path, pa.Table.from_pydict(columns, schema=SCHEMA))


def read_questions(path: str | Path) -> list[Question]:
    """Read what `write_questions` wrote. Raises `DataError` if the columns are not those."""
    questions: list[Question] = []
    for part in read_parts(Path(path), SCHEMA, "AQuA questions"):
        rows: list[dict[str, Any]] = part.to_pylist()
        for row in rows:
            options = row["options"] or ()
            if None in row.values() or None in options or row["correct"] not in LETTERS[: len(options)]:
                raise DataError(
                    f"{path}, row {len(questions)} is no AQuA question: the file was not written by aqua_dataset"
                )
            row["options"] = tuple(options)
            questions.append(Question(**row))
    return questions
