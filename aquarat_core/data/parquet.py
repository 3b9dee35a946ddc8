"""Reading Parquet files that a store or the Hub's cache delivered: one that is damaged is an error that names it."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.errors import DataError
from aquarat_core.plain_text import first_line

PART_BYTES = 1 << 20
"""Bytes of values that are read at once, about; one row at least."""


def write_table(path: str | Path, table: pa.Table) -> None:
    """Writes the table as one Parquet file, as pyarrow does by default."""
    # The stubs leave open of what their IO is.
    pq.write_table(table, path)  # pyright: ignore[reportUnknownMemberType]


def read_table(path: str | Path, schema: pa.Schema, what: str) -> pa.Table:
    """The columns of `schema`, in its types, of a file of ours.

    Raises `DataError` for a file that is damaged or no table of `what`.
    """
    with damage_named(path):
        # The stubs leave open of what their IO is.
        table = pq.read_table(path, memory_map=False, use_threads=False)  # pyright: ignore[reportUnknownMemberType]
    schema = _present(path, table.schema, schema, what)
    with _types_named(path, what):
        converted = table.select(schema.names).cast(schema)
        converted.validate(full=True)
    return converted


def read_parts(
    path: Path, schema: pa.Schema, what: str, columns: Sequence[str] | None = None, optional: Collection[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Like `read_table`, in parts of about `PART_BYTES`; no more is in memory at once.

    `columns` are those to read; those named in `optional` are there only if the file has them.
    """
    with damage_named(path):
        # The stubs leave open of what their IO is.
        found = pq.read_schema(path)  # pyright: ignore[reportUnknownMemberType]
        present = _present(path, found, schema, what, optional)
        wanted = present if columns is None else _columns(present, columns)
        for part in read_batches(path, wanted.names):
            with _types_named(path, what):
                converted = part.select(wanted.names).cast(wanted)
                converted.validate(full=True)
            yield converted


@contextmanager
def _types_named(path: str | Path, what: str) -> Generator[None]:
    """Around a conversion of columns: raises `DataError` where their types or values are not those of `what`."""
    try:
        yield
    except (pa.ArrowException, ValueError) as e:
        raise DataError(f"{path} does not hold a table of {what} ({first_line(e)})") from None


def _present(
    path: str | Path, found: pa.Schema, wanted: pa.Schema, what: str, optional: Collection[str] = ()
) -> pa.Schema:
    """The fields of `wanted` that the file has. Raises `DataError` where one is missing that is not `optional`."""
    missing = set(wanted.names) - set(found.names)
    if needed := missing - set(optional):
        raise DataError(f"{path} has no column {', '.join(sorted(needed))}: it is not a table of {what}")
    return _columns(wanted, [name for name in wanted.names if name not in missing])


def _columns(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    # The stubs leave open what a field holds.
    fields = [cast("pa.Field[Any]", schema.field(name)) for name in names]  # pyright: ignore[reportUnknownMemberType]
    return pa.schema(fields)


@contextmanager
def damage_named(path: str | Path) -> Generator[None]:
    """Around code that reads `path`: raises `DataError` where it is damaged, and lets our own errors pass."""
    try:
        yield
    except (FileNotFoundError, DataError):
        raise
    except (pa.ArrowException, OSError, ValueError) as e:
        said = first_line(e)
        raise DataError(f"{path} is damaged, or no Parquet file ({said}): materialize its asset again") from None


def read_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The columns in batches of about `PART_BYTES`, in this process; nulls stay in them."""
    # By default all groups are read ahead and held until the last one.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=PART_BYTES) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        size = sum(_bytes(group, columns) for group in groups)
        at_once = max(1, PART_BYTES * file.metadata.num_rows // max(1, size))
        # The stubs leave open of what their lists are.
        yield from file.iter_batches(  # pyright: ignore[reportUnknownMemberType]
            at_once, columns=list(columns), use_threads=False
        )


def _bytes(group: pq.RowGroupMetaData, columns: Sequence[str]) -> int:
    leaves = (group.column(i) for i in range(group.num_columns))
    return sum(leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema.split(".")[0] in columns)
