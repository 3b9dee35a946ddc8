"""Parquet files of somebody else: read in a process apart, and named whatever they do to it."""

import base64
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aquarat_core.data.foreign import NoColumn, Unreadable, read_foreign

DEADLY = zlib.decompress(base64.b64decode(
    "eNqVUs1Kw0AQnmxDrNCDCluyEkoRjR78SZUWkV4mtWo1xaZSFG8xDa1StabV+BjF5+ijCL6CD+HJk7OxtiKI+DGZ3fn5vt3sbg3rOa7yDM84"
    "XOMwB6AAgCfdhXQ+B/6ukK3yQYLPUI9mFJoriq8r3uwsNczTt7XwG7Zk9eXfYMuLlae/bZqrwsmDrvX8dnDtcQZ5pqv94LHPGdecIi2eV3W1"
    "c9mjBPDUEtOngk5wHdz0l8AxqJweMmEIwwSDp0QetBmxHfNjzlcvh/QgkX5jZKZtJr//v1ilwwMpDnQ4DIpS8GTImmKvCTBkcgkiDpmZpBGE"
    "oaewXj8+3fncsf6qbEgUUMLFTxwhRmi3cA+xhaVWnLNtxKqclBArcWIyEspjl6uRXiTVooaMDybScevhOLat87O2FYfVKyJtu2i7Un8f0cfd"
    "EaM82hS6DfeHHo5F9zvW+amFE8qkDnq264V390F/ze9217wwvI2yD0HYu7y9yW4W1q31nDDkVTzTc6vRa/wADSCxlw=="
))  # fmt: skip
"""A file with a column `text` of lists, one byte of its footer changed: pyarrow 26 ends its process, with SIGABRT."""

TABLES: dict[str, pa.Table] = {
    "text": pa.table({"text": ["a", None, "ä" * 1_000]}),
    "large": pa.table({"text": pa.array(["a", None], pa.large_string())}),
    "rows": pa.table({"text": [{"role": "user", "said": ["a", "b"]}, None], "other": [1, 2]}),
    "lists": pa.table({"text": [["a", None], None, []]}),
    "numbers": pa.table({"text": [1.5, None]}),
    "empty": pa.table({"text": pa.array([], pa.string())}),
}


def _written(tmp_path: Path, table: pa.Table) -> Path:
    pq.write_table(table, tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


@pytest.mark.parametrize("name", TABLES)
def test_a_sound_file_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    expected = TABLES[name].select(["text"])
    found = read_foreign(_written(tmp_path, TABLES[name]), ["text"])
    assert found.to_pylist() == expected.to_pylist() and found.schema.types == expected.schema.types


def test_dictionaries_become_what_they_stand_for(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()})
    found = read_foreign(_written(tmp_path, table), ["text"])
    assert found.column("text").type == pa.string() and found.column("text").to_pylist() == ["a", "b", "a"]


def test_no_more_rows_than_asked_for(tmp_path: Path) -> None:
    path = _written(tmp_path, pa.table({"text": [str(i) for i in range(5_000)]}))
    assert read_foreign(path, ["text"], 4_999).column("text").to_pylist() == [str(i) for i in range(4_999)]
    assert len(read_foreign(path, ["text"], 5_001)) == 5_000


def test_a_text_that_is_not_utf_8_spoils_no_other(tmp_path: Path) -> None:
    values = pa.array([b"good", b"\xff\xfe"], pa.binary())
    table = pa.table({"text": pa.Array.from_buffers(pa.string(), 2, values.buffers())})
    found = read_foreign(_written(tmp_path, table), ["text"]).column("text")
    assert found[0].as_py() == "good"
    with pytest.raises(UnicodeDecodeError):
        found[1].as_py()


def test_columns_that_are_not_there_once(tmp_path: Path) -> None:
    with pytest.raises(NoColumn, match=r"^no column a, b \(there are text\)$"):
        read_foreign(_written(tmp_path, TABLES["text"]), ["a", "text", "b"])
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["text", "text"])
    with pytest.raises(Unreadable, match="it has more than one column text"):
        read_foreign(_written(tmp_path, twice), ["text"])


@pytest.mark.parametrize("data", [b"", b"PAR1" + bytes(500), b"not Parquet at all"])
def test_what_is_no_parquet(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(Unreadable, match="Parquet"):
        read_foreign(tmp_path / "t.parquet", ["text"])


def test_a_file_that_ends_the_process_that_reads_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(DEADLY)
    here = "import sys; from aquarat_core.data.parquet import read_batches; list(read_batches(sys.argv[1], ['text']))"
    died = subprocess.run([sys.executable, "-c", here, str(tmp_path / "t.parquet")], capture_output=True)
    assert died.returncode != 0
    with pytest.raises(Unreadable, match="histogram size mismatch" if died.returncode > 0 else "with SIGABRT"):
        read_foreign(tmp_path / "t.parquet", ["text"])


def test_a_process_that_somebody_else_ends_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **how: run([sys.executable, "-c", killed], **how))
    with pytest.raises(RuntimeError, match=r"ended with -9"):
        read_foreign(_written(tmp_path, TABLES["text"]), ["text"])
