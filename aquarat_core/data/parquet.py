"""Reads Parquet files from a store or the Hub's cache, and raises an error that names the file if it is damaged."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.errors import DataError
from aquarat_core.plain_text import first_line

PART_BYTES = 1 << 20
"""Approximate number of bytes of values that are read at a time; at least one row."""
IDS_AT_ONCE = 10_000


class Part(Protocol):
    """Consecutive rows of a file."""

    def __len__(self) -> int: ...

    def take(self, numbers: npt.NDArray[np.int64]) -> Part:
        """The rows with these numbers, which ascend, counted from the part's first."""
        ...


P = TypeVar("P", bound=Part)


def write_table(path: str | Path, table: pa.Table) -> None:
    """Writes the table as one Parquet file with pyarrow's default settings."""
    # The stubs do not declare the type of its IO argument.
    pq.write_table(table, path)  # pyright: ignore[reportUnknownMemberType]


def read_table(path: str | Path, schema: pa.Schema, what: str) -> pa.Table:
    """The columns of `schema`, with its types, from a file of ours.

    Raises `DataError` for a file that is damaged or is not a table of `what`.
    """
    with damage_named(path):
        # The stubs do not declare the type of its IO argument.
        table = pq.read_table(path, memory_map=False, use_threads=False)  # pyright: ignore[reportUnknownMemberType]
    schema = _present(path, table.schema, schema, what)
    with _types_named(path, what):
        converted = table.select(schema.names).cast(schema)
        converted.validate(full=True)
    return converted


def rows_taken(parts: Iterator[P], rows: npt.NDArray[np.int64]) -> Iterator[P]:
    """The rows with the numbers `rows` of a file that is read part by part from its beginning.

    `rows` are counted from 0 and must be in ascending order. Reading stops after the last of them.
    """
    base = 0
    for part in parts:
        low, high = np.searchsorted(rows, (base, base + len(part)))
        if high > low:
            yield cast("P", part.take(rows[low:high] - base))
        if high == len(rows):
            return
        base += len(part)


def read_parts(
    path: Path, schema: pa.Schema, what: str, columns: Sequence[str] | None = None, optional: Collection[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Like `read_table`, in parts of about `PART_BYTES`; only one part is in memory at a time.

    `columns` are the columns to read; those named in `optional` may be missing in the file.
    """
    with damage_named(path):
        # The stubs do not declare the type of its IO argument.
        found = pq.read_schema(path)  # pyright: ignore[reportUnknownMemberType]
        present = _present(path, found, schema, what, optional)
        wanted = present if columns is None else _columns(present, columns)
        for part in read_batches(path, wanted.names):
            with _types_named(path, what):
                converted = part.select(wanted.names).cast(wanted)
                converted.validate(full=True)
            yield converted


def read_ids(path: Path, schema: pa.Schema, what: str) -> Iterator[str]:
    """The column `id` of a file of ours. Raises `DataError` like `read_parts`, and for a row without an id."""
    for part in read_parts(path, schema, what, ["id"]):
        column = cast("pa.StringArray", part["id"])
        if column.null_count:
            raise lacking(path, what, "an id")
        # A part of ids alone has many of them, and as a Python object each takes five times its bytes.
        for start in range(0, len(column), IDS_AT_ONCE):
            yield from cast("list[str]", column[start : start + IDS_AT_ONCE].to_pylist())


def lacking(path: Path, what: str, missing: str) -> DataError:
    """The error for a file of `what` in which a row lacks something."""
    return DataError(f"{path} does not hold a table of {what} ({missing} is missing)")


@contextmanager
def _types_named(path: str | Path, what: str) -> Generator[None]:
    """For a block that converts columns: raises `DataError` if their types or values are not those of `what`."""
    try:
        yield
    except (pa.ArrowException, ValueError) as e:
        raise DataError(f"{path} does not hold a table of {what} ({first_line(e)})") from None


def _present(
    path: str | Path, found: pa.Schema, wanted: pa.Schema, what: str, optional: Collection[str] = ()
) -> pa.Schema:
    """The fields of `wanted` that the file has. Raises `DataError` if one is missing that is not `optional`."""
    missing = set(wanted.names) - set(found.names)
    if needed := missing - set(optional):
        raise DataError(f"{path} has no column {', '.join(sorted(needed))}: it is not a table of {what}")
    return _columns(wanted, [name for name in wanted.names if name not in missing])


def _columns(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    # The stubs do not declare the type of a field.
    fields = [cast("pa.Field[Any]", schema.field(name)) for name in names]  # pyright: ignore[reportUnknownMemberType]
    return pa.schema(fields)


@contextmanager
def damage_named(path: str | Path) -> Generator[None]:
    """For a block that reads `path`: raises `DataError` if the file is damaged; passes on our own errors."""
    try:
        yield
    except (FileNotFoundError, DataError):
        raise
    except (pa.ArrowException, OSError, ValueError) as e:
        said = first_line(e)
        raise DataError(f"{path} is damaged, or not a Parquet file ({said}): materialize its asset again") from None


def read_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The columns in batches of about `PART_BYTES`, read in this process, including nulls."""
    # By default, all row groups are read ahead and held until the last one.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=PART_BYTES) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        size = sum(_bytes(group, columns) for group in groups)
        at_once = max(1, PART_BYTES * file.metadata.num_rows // max(1, size))
        # The stubs do not declare the types of its lists.
        yield from file.iter_batches(  # pyright: ignore[reportUnknownMemberType]
            at_once, columns=list(columns), use_threads=False
        )


def _bytes(group: pq.RowGroupMetaData, columns: Sequence[str]) -> int:
    leaves = (group.column(i) for i in range(group.num_columns))
    return sum(leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema.split(".")[0] in columns)
