"""Documents on disk: Parquet files with a column `text`, written and read incrementally.

Memory use does not depend on the size of the file: documents are written in pages of about a megabyte, and pages are
read one at a time. Parquet files from other writers can be read too; memory then depends on the size of their pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.data.parquet import read_batches
from aquarat_core.errors import DataError

COLUMN = "text"
SCHEMA = pa.schema([(COLUMN, pa.string())])
DOCUMENTS_PER_GROUP = 1_024


class DocumentWriter:
    """A Parquet file of documents, written one at a time in groups of `DOCUMENTS_PER_GROUP`; leaving the block closes
    it."""

    def __init__(self, path: Path) -> None:
        self._group: list[str] = []
        # No dictionary, because texts hardly repeat: it would keep every text in memory, and looking each one up made
        # reading five times as slow. LZ4 takes as much space as Snappy and half the time to read. The page size is only
        # checked after this many documents.
        self._writer = pq.ParquetWriter(path, SCHEMA, use_dictionary=False, compression="lz4", write_batch_size=16)

    def __enter__(self) -> DocumentWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, text: str) -> None:
        """Write one document."""
        self._group.append(text)
        if len(self._group) == DOCUMENTS_PER_GROUP:
            self._write_group()

    def close(self) -> None:
        """Write the remaining documents and finish the file."""
        if self._group:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        self._writer.write_batch(pa.RecordBatch.from_pydict({COLUMN: self._group}, schema=SCHEMA))
        self._group = []


def write_documents(path: Path, texts: Iterable[str]) -> None:
    """Write the texts to a Parquet file."""
    with DocumentWriter(path) as writer:
        for text in texts:
            writer.add(text)


def read_columns(path: Path) -> Iterator[pa.Array[Any]]:
    """The documents of a Parquet file of ours as Arrow arrays of about a megabyte, including nulls."""
    for batch in read_batches(path, [COLUMN]):
        yield batch.column(0)


def read_documents(path: Path) -> Iterator[str]:
    """Like `read_columns`, text by text. Raises `DataError` for a null or for bytes that are not valid UTF-8."""
    for i, text in enumerate(texts_in(read_columns(path))):
        if not isinstance(text, str):
            what = "a null" if text is None else "not valid UTF-8"
            raise DataError(f"{path}, document {i} is {what}: materialize its asset again")
        yield text


def texts_in(columns: Iterable[pa.Array[Any]]) -> Iterator[str | bytes | None]:
    """The texts one by one: None for a null, and bytes for a text that is not valid UTF-8."""
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
