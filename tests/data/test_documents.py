"""Documents in Parquet files: they come back in order, in parts, and no more of a file is held than a part."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aquarat_core.data.documents import SCHEMA, read_columns, read_documents, texts_in, write_documents
from aquarat_core.data.parquet import PART_BYTES
from aquarat_core.errors import DataError


def documents(n: int, length: int) -> list[str]:
    rng = random.Random(3)
    return ["é" * (length // 4) + "".join(rng.choices("abcdef \n", k=rng.randint(0, length))) for _ in range(n)]


@pytest.mark.parametrize("n", [0, 1, 1_024, 2_500])
def test_documents_come_back_in_order(tmp_path: Path, n: int) -> None:
    texts = documents(n, 200)
    write_documents(tmp_path / "d.parquet", iter(texts))
    assert list(read_documents(tmp_path / "d.parquet")) == texts
    assert pq.read_schema(tmp_path / "d.parquet") == SCHEMA


def test_no_more_is_held_than_a_part(tmp_path: Path) -> None:
    texts = documents(1_200, 30_000)
    write_documents(tmp_path / "d.parquet", texts)
    before, held, rows = pa.total_allocated_bytes(), [], 0
    for column in read_columns(tmp_path / "d.parquet"):
        assert column.nbytes < 2 * PART_BYTES
        held.append(pa.total_allocated_bytes() - before)
        rows += len(column)
        del column
    assert rows == len(texts) and len(held) > 20
    assert max(held) < 8 * PART_BYTES < sum(map(len, texts)) / 3


def test_files_of_others_are_read(tmp_path: Path) -> None:
    texts = ["a", None, "", "b" * 3_000_000, "c"] * 4
    table = pa.table({"id": pa.array(range(20)), "text": pa.array(texts, pa.large_string())})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=7)
    assert list(texts_in(read_columns(tmp_path / "d.parquet"))) == texts
    with pytest.raises(DataError, match=r"d\.parquet, document 1 is a null: materialize its asset again"):
        list(read_documents(tmp_path / "d.parquet"))


def test_a_text_that_is_not_utf8_comes_back_as_its_bytes(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 2, 5)))
    column = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"ok" + b"\xff\xfec")])
    pq.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
    assert list(texts_in(read_columns(tmp_path / "t.parquet"))) == ["ok", b"\xff\xfec"]
    with pytest.raises(DataError, match=r"t\.parquet, document 1 is not valid UTF-8: materialize its asset again"):
        list(read_documents(tmp_path / "t.parquet"))
