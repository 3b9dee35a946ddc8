"""What a model said to each question, kept so that any later statistic can be computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from aquarat_core.data.parquet import read_table, write_table

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("completion", pa.string()),
        ("parsed", pa.string()),
        ("correct", pa.bool_()),
        ("n_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("stop_reason", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Record:
    """One question and one answer to it. Field order is the column order of the Parquet file."""

    id: str
    question: str
    """The prompt as the model read it: options in the order it saw them."""
    gold: str
    """The right answer, for choices the letter in that order."""
    completion: str
    parsed: str | None
    """The answer as the task read it, or None."""
    correct: bool
    """Whether the task took the answer for right; one that does not parse is wrong."""
    n_tokens: int
    """Generated tokens, the stop token not counted."""
    truncated: bool
    """True when the token limit cut the completion off."""
    stop_reason: Literal["stop", "length", "too_long"]
    """`too_long`: prompt and budget did not fit the context, so nothing was asked; the answer counts as wrong."""


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Write `records` as Parquet with the columns of `SCHEMA`."""
    columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
    write_table(path, pa.Table.from_pydict(columns, schema=SCHEMA))


def read_records(path: str | Path) -> list[Record]:
    """Read what `write_records` wrote. Raises `DataError` if the columns are not those."""
    return [Record(**row) for row in read_table(path, SCHEMA, "evaluation records").to_pylist()]
