"""Documents of a mixture as Parquet, an id and a text for each: what `chat_datasets` writes for a source of documents.

The files of `data.documents`, from which pretraining reads, have no ids: a mixture needs them to sort its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aquarat_core.data.documents import DOCUMENTS_PER_GROUP
from aquarat_core.data.parquet import damage_named, lacking, read_ids, read_parts, rows_taken

WHAT = "documents"
SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


@dataclass(frozen=True, slots=True)
class Document:
    """One document and its name, which is unique in its source and split."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Texts:
    """N documents as a column."""

    texts: pa.StringArray
    """[N] without nulls."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, numbers: npt.NDArray[np.int64]) -> Texts:
        """The documents with these numbers."""
        return Texts(self.texts.take(numbers))


def write_mixed_documents(path: str | Path, rows: Sequence[Document]) -> None:
    """Write `rows` as Parquet with the columns of `SCHEMA`, in the pages that `data.documents` explains."""
    with pq.ParquetWriter(path, SCHEMA, use_dictionary=False, compression="lz4", write_batch_size=16) as writer:
        for start in range(0, len(rows), DOCUMENTS_PER_GROUP):
            group = rows[start : start + DOCUMENTS_PER_GROUP]
            columns: dict[str, Any] = {"id": [row.id for row in group], "text": [row.text for row in group]}
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=SCHEMA))


def holds_documents(path: Path) -> bool:
    """Whether a Parquet file of `chat_datasets` holds documents, as opposed to conversations or examples."""
    with damage_named(path):
        # The stubs do not declare the type of the schema.
        names: list[str] = pq.read_schema(path).names  # pyright: ignore[reportUnknownMemberType]
    return "text" in names and "messages" not in names


class DocumentFile:
    """The documents of a file that `write_mixed_documents` wrote, by row.

    Holds about a megabyte of it in memory at a time. Methods raise `DataError` if the file is damaged or does not
    contain documents.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads nothing until it is needed."""
        self._path = Path(path)

    def __len__(self) -> int:
        return sum(1 for _ in self.ids())

    def ids(self) -> Iterator[str]:
        """The ids of all rows."""
        return read_ids(self._path, SCHEMA, WHAT)

    def texts(self, rows: npt.NDArray[np.int64]) -> Iterator[Texts]:
        """The documents of `rows`, which must ascend, in parts of about a megabyte."""
        return rows_taken(self.parts(), rows)

    def parts(self) -> Iterator[Texts]:
        """All rows, in parts of about a megabyte."""
        for part in read_parts(self._path, SCHEMA, WHAT, ["text"]):
            texts = cast("pa.StringArray", part["text"])
            if texts.null_count:
                raise lacking(self._path, WHAT, "a text")
            yield Texts(texts)

    def documents(self) -> Iterator[Document]:
        """All rows as objects."""
        for part in read_parts(self._path, SCHEMA, WHAT):
            yield from (Document(row["id"], row["text"]) for row in part.to_pylist())
