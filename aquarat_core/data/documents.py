"""Documents on disk: Parquet files with a column `text`, written and read part by part.

Memory is bounded by a part, never by the file: documents are written in pages of about a megabyte, and pages are read
one by one. Anyone's Parquet files can be read; with larger pages a page is what is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.data.parquet import read_batches

COLUMN = "text"
SCHEMA = pa.schema([(COLUMN, pa.string())])
DOCUMENTS_PER_GROUP = 1_024


def write_documents(path: Path, texts: Iterable[str]) -> None:
    """Write the texts to a Parquet file, in groups of `DOCUMENTS_PER_GROUP`."""
    # Without a dictionary, which would hold every text once: texts hardly repeat, and looking each up made reading five
    # times as slow. LZ4 takes the space of Snappy and half of its time to read. The size of a page is only looked at
    # after so many documents.
    with pq.ParquetWriter(path, SCHEMA, use_dictionary=False, compression="lz4", write_batch_size=16) as writer:
        group: list[str] = []
        for text in texts:
            group.append(text)
            if len(group) == DOCUMENTS_PER_GROUP:
                writer.write_batch(pa.RecordBatch.from_pydict({COLUMN: group}, schema=SCHEMA))
                group = []
        if group:
            writer.write_batch(pa.RecordBatch.from_pydict({COLUMN: group}, schema=SCHEMA))


def read_columns(path: Path) -> Iterator[pa.Array[Any]]:
    """The documents of a Parquet file of ours as Arrow arrays of about a megabyte; nulls stay in them."""
    for batch in read_batches(path, [COLUMN]):
        yield batch.column(0)


def read_documents(path: Path) -> Iterator[str | bytes | None]:
    """As `read_columns`, text by text."""
    return texts_in(read_columns(path))


def texts_in(columns: Iterable[pa.Array[Any]]) -> Iterator[str | bytes | None]:
    """The texts one by one; the bytes of one that is not valid UTF-8."""
    for column in columns:
        try:
            texts = column.to_pylist()
        except UnicodeDecodeError:
            texts = [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]
        yield from texts


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return value and value.decode()
    except UnicodeDecodeError:
        return value
