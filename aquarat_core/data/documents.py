"""Documents on disk: Parquet files with a column `text`, written and read part by part.

Memory is bounded by a part, never by the file: documents are written in pages of about a megabyte, and pages are read
one by one. Anyone's Parquet files can be read; with larger pages a page is what is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COLUMN = "text"
SCHEMA = pa.schema([(COLUMN, pa.string())])
DOCUMENTS_PER_GROUP = 1_024
PART_BYTES = 1 << 20
"""UTF-8 that is read at once, about; one document at least."""


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
                writer.write_batch(pa.record_batch([group], schema=SCHEMA))
                group = []
        if group:
            writer.write_batch(pa.record_batch([group], schema=SCHEMA))


def read_columns(path: Path) -> Iterator[pa.Array]:
    """The documents of a Parquet file as Arrow arrays of about `PART_BYTES`; nulls stay in them."""
    # By default all groups are read ahead and held until the last one.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=PART_BYTES) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        size = sum(_text_bytes(group) for group in groups)
        at_once = max(1, PART_BYTES * file.metadata.num_rows // max(1, size))
        for batch in file.iter_batches(at_once, columns=[COLUMN], use_threads=False):
            yield batch.column(0)


def _text_bytes(group: pq.RowGroupMetaData) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == COLUMN)


def read_documents(path: Path) -> Iterator[str | bytes | None]:
    """As `read_columns`, text by text; the bytes of a text that is not valid UTF-8."""
    for column in read_columns(path):
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
