"""One reader for paths, folders, patterns and URLs: the same rows from each, and errors that name the place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aquarat_core.config.locations import pinned, shown
from aquarat_core.data import remote_files
from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.locations import Row, RowReader
from aquarat_core.errors import DataError
from tests.serving import serving

ROWS = [{"q": f"question {n}", "n": str(n)} for n in range(3)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "WAITS", (0.01, 0.01))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same rows in each format."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "t.jsonl").write_bytes(JSONL)
    (folder / "t.csv").write_text("q,n\n" + "".join(f"{row['q']},{row['n']}\n" for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "t.parquet")
    return folder


def reader(location: str, rule: str = "error", log: list[str] | None = None) -> RowReader:
    said = [] if log is None else log
    return RowReader(location, BadRows(shown(location), "chat_datasets", rule), said.append)


@pytest.mark.parametrize(("name", "place"), [("t.jsonl", "line 1"), ("t.csv", "line 2"), ("t.parquet", "row 1")])
def test_formats_give_the_same_rows(folder: Path, name: str, place: str) -> None:
    source = reader(pinned(str(folder / name)))
    found = list(source.rows(["n", "q"]))
    assert [row.values for row in found] == ROWS and found[0].where == f"{name}, {place}"
    assert source.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert [row.values for row in source.rows()] == ROWS and len(source.files) == 1
    assert list(reader(str(folder / name)).rows(["q"]))[2] == Row(
        {"q": "question 2"}, f"{name}, {place[:-1]}{int(place[-1]) + 2}"
    )


def test_folders_and_patterns_are_read_in_order(folder: Path) -> None:
    assert [row.where.split(",")[0] for row in reader(pinned(str(folder))).rows(["q"])] == (
        ["t.csv"] * 3 + ["t.jsonl"] * 3 + ["t.parquet"] * 3
    )
    assert len(list(reader(pinned(f"{folder}/*.[cj]s*")).rows(["q"]))) == 6


def test_other_bytes_than_the_config_names_are_refused_before_a_row_is_used(folder: Path) -> None:
    location = pinned(str(folder / "t.jsonl"))
    (folder / "t.jsonl").write_bytes(JSONL.replace(b"question 2", b"question 3"))
    with pytest.raises(DataError, match="has other content"):
        next(reader(location).rows(["q"]))
    both = pinned(str(folder))
    (folder / "t.csv").write_text("q,n\n")
    with pytest.raises(DataError, match="has other content"):
        list(reader(both).rows(["q"]))


def test_a_file_that_changes_while_it_is_read(folder: Path) -> None:
    rows = reader(str(folder / "t.jsonl")).rows(["q"])
    next(rows)
    (folder / "t.jsonl").write_bytes(JSONL + b"\n")
    with pytest.raises(DataError, match="was changed while it was read"):
        list(rows)


def test_a_bad_row_is_named_by_file_and_line(folder: Path) -> None:
    (folder / "t.jsonl").write_bytes(JSONL + b"{\n" + JSONL)
    with pytest.raises(
        DataError, match=r"^t.jsonl, line 4 \(of .*/data/t.jsonl\): it is not valid JSON.*on_bad_row to 'drop'"
    ):
        list(reader(str(folder / "t.jsonl")).rows(["q"]))
    dropping = reader(str(folder / "t.jsonl"), "drop")
    assert len(list(dropping.rows(["q"]))) == 6 and dropping.bad.count == 1
    assert dropping.bad.rows[0].row == "t.jsonl, line 4"


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_missing_column_names_those_there_are(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}.*no column a.*there are q, n"):
        list(reader(str(folder / name)).rows(["a"]))


def test_damaged_parquet_and_text_where_columns_are_wanted(folder: Path, tmp_path: Path) -> None:
    (folder / "t.parquet").write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(DataError, match=r"t.parquet is not readable as Parquet"):
        list(reader(str(folder / "t.parquet")).rows(["q"]))
    (tmp_path / "t.txt").write_text("a\n\nb\n")
    with pytest.raises(DataError, match="there are only text files"):
        list(reader(str(tmp_path / "t.txt")).rows(["q"]))
    assert [row.values for row in reader(str(tmp_path / "t.txt")).rows(["q"], "paragraph")] == [{"q": "a"}, {"q": "b"}]
    with pytest.raises(DataError, match=r"there is no file .*on the host that runs the stage"):
        list(reader(f"/nowhere.jsonl#sha256={'0' * 64}").rows())


def test_a_file_system_of_fsspec(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("t.jsonl", "sub/t.parquet", "sub/.hidden.csv", "about.pdf"):
        memory.pipe_file(
            f"/own/{name}",
            (folder / name.rpartition("/")[2]).read_bytes() if name.rpartition("/")[2].startswith("t.") else b"",
        )
    try:
        source = reader("memory://own")
        assert [row.values for row in source.rows(["q", "n"])] == ROWS * 2
        assert [file.name for file in source.files] == ["sub/t.parquet", "t.jsonl"]
        assert source.files[1].sha256 == hashlib.sha256(JSONL).hexdigest()
        assert len(list(reader("memory://own/*.jsonl").rows())) == 3
        wrong = reader(f"memory://own/t.jsonl#sha256={'0' * 64}")
        with pytest.raises(DataError, match="has other content"):
            next(wrong.rows())
        for missing in ("memory://own/none.jsonl", "memory://none/"):
            with pytest.raises(DataError, match="Check the location"):
                list(reader(missing).rows())
        with pytest.raises(DataError, match="does not end in"):
            list(reader("memory://own/about.pdf").rows())
    finally:
        memory.rm("/own", recursive=True)


class _Handler(SimpleHTTPRequestHandler):
    fail = 0

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "http://example.com/t.jsonl")
            self.end_headers()
        elif _Handler.fail:
            _Handler.fail -= 1
            self.send_error(503)
        else:
            super().do_GET()


@pytest.fixture
def site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    def handler(*arguments: Any) -> _Handler:
        return _Handler(*arguments, directory=str(folder))

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def test_a_web_server(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(_Handler, "fail", 1)
    source = reader(f"{site}/t.jsonl?page=private", log=log)
    found = list(source.rows())
    assert [row.values for row in found] == ROWS and found[2].where == "t.jsonl, line 3"
    assert source.sha256 == hashlib.sha256(JSONL).hexdigest()
    assert "503" in " ".join(log) and "private" not in " ".join(log)
    assert len(list(reader(f"{site}/t.parquet").rows(["q"]))) == 3
    with pytest.raises(DataError, match="there is no such file"):
        list(reader(f"{site}/none.jsonl?page=private").rows())
    monkeypatch.setattr(_Handler, "fail", 99)
    with pytest.raises(DataError, match="not delivered in 3 tries") as failed:
        list(reader(f"{site}/t.jsonl?page=private").rows())
    assert "private" not in str(failed.value)


def test_a_redirect_to_plain_http_is_not_followed(site: str) -> None:
    with pytest.raises(DataError, match=r"redirects to http://example\.com"):
        list(reader(f"{site}/away/t.jsonl").rows())


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(DataError, match=r"s3:// needs a package that is not installed .*: pip install s3fs"):
        list(reader("s3://bucket/t.jsonl").rows())
