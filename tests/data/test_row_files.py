"""JSONL, CSV and text as rows: whatever the bytes are, each row is read, or reported by the line an editor shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from aquarat_core.data import row_files
from aquarat_core.data.row_files import Unusable, csv_rows, json_rows, text_rows

Found = tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, str]]]


def read(rows: Callable[..., Any], data: bytes, *arguments: Any) -> Found:
    """The rows and what was reported."""
    reported: list[tuple[int, str]] = []
    return list(rows(io.BytesIO(data), *arguments, lambda number, reason: reported.append((number, reason)))), reported


def test_json_lines_end_at_newlines_only() -> None:
    data = '\ufeff{"text": "a\u2028b\u0085c"}\r\n\n  \n{"text": "d", "n": 1}'.encode()
    found, reported = read(json_rows, data, ["text"])
    assert found == [(1, {"text": "a\u2028b\u0085c"}), (4, {"text": "d"})] and not reported
    assert read(json_rows, data, None)[0][1] == (4, {"text": "d", "n": 1})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not valid JSON"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
        (b'{"text": "a", "text": "b"}', "the key 'text' appears twice"),
        (b'{"text": "a", "inner": {"k": 1, "k": 2}}', "the key 'k' appears twice"),
        (b'{"text": NaN}', "NaN is not a JSON number"),
        (b'{"text": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"text": 1e999}', "too large"),
        (b'["text"]', "it is a list, not an object"),
        (b'"text"', "it is a text, not an object"),
        (b'{"text": "\\ud800"}', "half of a surrogate pair"),
        (b'{"text": ' + b"[" * 200_000, "nested too deep"),
        (b'{"text": ' + b"9" * 5_000 + b"}", "not valid JSON"),
        (b'{"title": "a"}', "it has no text (there are title)"),
        (b"{}", "it has no text (there are none)"),
    ],
)
def test_a_bad_json_line_is_reported_and_the_next_one_read(line: bytes, reason: str) -> None:
    found, reported = read(json_rows, b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n', ["text"])
    assert [number for number, _ in found] == [1, 3]
    assert len(reported) == 1 and reported[0][0] == 2 and reason in reported[0][1]


def test_whole_surrogate_pairs_are_text() -> None:
    assert read(json_rows, b'{"text": "\\ud83d\\ude00"}', ["text"]) == ([(1, {"text": "\U0001f600"})], [])


class Endless(io.RawIOBase):
    """A line of 100 MB, and a good one after it; counts the most that was asked for at once."""

    def __init__(self) -> None:
        self.left, self.most, self.ended = 100_000_000, 0, False

    def readline(self, size: int | None = -1) -> bytes:
        assert size is not None and size > 0
        self.most = max(self.most, size)
        if self.left:
            given = min(size, self.left)
            self.left -= given
            return b"x" * given + (b"" if self.left else b"\n")
        self.ended, before = True, self.ended
        return b"" if before else b'{"text": "short"}\n'


@pytest.mark.parametrize("rows", [json_rows, csv_rows])
def test_a_line_of_any_length_is_passed_over_within_bounds(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "MAX_ROW_BYTES", 1_000_000)
    file = Endless()
    reported: list[int] = []
    if rows is csv_rows:
        assert (
            list(rows(file, None, lambda number, reason: reported.append(number))) == []
        )  # the short one is the header
    else:
        assert list(rows(file, None, lambda number, reason: reported.append(number))) == [(2, {"text": "short"})]
    assert reported == [1] and file.most <= 1_000_001


def test_csv_has_quotes_and_breaks_inside_them() -> None:
    data = '\ufeffid,text\r\n1,"a, ""b""\nc"\r\n\r\n2,d\n'.encode()
    found, reported = read(csv_rows, data, ["text"])
    assert found == [(2, {"text": 'a, "b"\nc'}), (5, {"text": "d"})] and not reported
    assert read(csv_rows, data, None)[0][1][1] == {"id": "2", "text": "d"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1", "it has 1 values"),
        (b"1,2,3", "it has 3 values, but the first line names 2"),
        (b"1,\xff", "not valid UTF-8"),
        (b'1,"a"b', "not valid CSV"),
    ],
)
def test_a_bad_csv_row_is_reported(line: bytes, reason: str) -> None:
    found, reported = read(csv_rows, b"id,text\n0,before\n" + line + b"\n2,after\n", None)
    assert [number for number, _ in found] == [2, 4]
    assert len(reported) == 1 and reported[0][0] == 3 and reason in reported[0][1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"id,id\n", "'id' is blank or appears twice"),
        (b"id,\n", "'' is blank"),
        (b"id,body\n1,2\n", "there is no column text (there are id, body)"),
        (b'id,text\n1,2\n3,"a\nb\nc\n', "the quote that opens in the row of line 3 is never closed"),
        ("id,text\n1,2\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_csv_file_that_cannot_be_used(data: bytes, reason: str) -> None:
    with pytest.raises(Unusable, match=reason.replace("(", r"\(").replace(")", r"\)")):
        read(csv_rows, data, ["text"])


def test_a_quote_that_swallows_the_file_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "MAX_ROW_BYTES", 1_000)
    with pytest.raises(Unusable, match="the row that begins in line 2 does not end"):
        read(csv_rows, b'text\n"' + b"line\n" * 1_000, ["text"])


def test_text_files_by_file_line_and_paragraph() -> None:
    data = b"\n\nfirst\r\nsecond\n  \n\nthird\n"
    assert read(text_rows, data, "t", "file")[0] == [(3, {"t": "first\nsecond\n  \n\nthird"})]
    assert read(text_rows, data, "t", "line")[0] == [(3, {"t": "first"}), (4, {"t": "second"}), (7, {"t": "third"})]
    assert read(text_rows, data, "t", "paragraph")[0] == [(3, {"t": "first\nsecond"}), (7, {"t": "third"})]
    assert read(text_rows, b" \n\n", "t", "file") == ([], [])


def test_a_text_that_is_too_long_is_reported_once_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "MAX_ROW_BYTES", 100)
    data = b"short\n\n" + b"many words\n" * 30 + b"\nlast\n\n" + b"x" * 500 + b"\nits end\n\nmore\n"
    found, reported = read(text_rows, data, "t", "paragraph")
    assert [row["t"] for _, row in found] == ["short", "last", "more"]
    assert [number for number, _ in reported] == [3, 36]
    assert read(text_rows, data, "t", "file")[0] == [] and len(read(text_rows, data, "t", "file")[1]) == 1
    lines, reported = read(text_rows, data, "t", "line")
    assert len(lines) == 34 and [number for number, _ in reported] == [36]


def test_text_that_is_no_utf8_is_reported() -> None:
    found, reported = read(text_rows, b"good\nb\xffd\ngood\n", "t", "line")
    assert [number for number, _ in found] == [1, 3] and reported[0][0] == 2
