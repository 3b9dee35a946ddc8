"""Files of documents for mixtures: the same documents, by row and all together; what is none is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aquarat_core.conversation import Conversation
from aquarat_core.data import mixed_documents, parquet
from aquarat_core.data.conversations import write_conversations
from aquarat_core.data.mixed_documents import Document, DocumentFile, holds_documents, write_mixed_documents
from aquarat_core.errors import DataError
from aquarat_core.tasks.example_files import write_examples

ROWS = [Document(f"train-{i:06d}", f"é{i} <|bos|>\n" * (1 + i % 9)) for i in range(500)]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of several groups that is read in many parts."""
    monkeypatch.setattr(parquet, "PART_BYTES", 1_000)
    monkeypatch.setattr(mixed_documents, "DOCUMENTS_PER_GROUP", 64)
    write_mixed_documents(tmp_path / "d.parquet", ROWS)
    return tmp_path / "d.parquet"


@pytest.mark.parametrize("rows", [range(500), range(0, 500, 3), [], [499], range(7)])
def test_rows_come_in_parts(path: Path, rows: list[int]) -> None:
    file = DocumentFile(path)
    parts = list(file.texts(np.array(rows, np.int64)))
    assert [text for part in parts for text in part.texts.to_pylist()] == [ROWS[i].text for i in rows]
    assert len(parts) > 10 or len(rows) < 10
    assert list(file.documents()) == ROWS and list(file.ids()) == [row.id for row in ROWS] and len(file) == 500


def test_documents_conversations_and_examples_are_told_apart(path: Path, tmp_path: Path) -> None:
    write_conversations(tmp_path / "c.parquet", [Conversation("c", [])])
    write_examples(tmp_path / "e.parquet", [])
    write_mixed_documents(tmp_path / "none.parquet", [])
    there = [holds_documents(tmp_path / f"{name}.parquet") for name in ("d", "none", "c", "e")]
    assert there == [True, True, False, False]
    assert list(DocumentFile(tmp_path / "none.parquet").documents()) == []


def test_what_is_no_file_of_documents_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 no more")
    for look in (holds_documents, lambda path: len(DocumentFile(path))):
        with pytest.raises(DataError, match=r"x\.parquet is damaged, or not a Parquet file"):
            look(path)
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(DataError, match=r"x\.parquet has no column id: it is not a table of documents"):
        len(DocumentFile(path))
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["a", None]}), path)
    with pytest.raises(DataError, match=r"does not hold a table of documents \(a text is missing"):
        list(DocumentFile(path).texts(np.arange(1)))
