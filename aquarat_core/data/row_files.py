"""JSONL, CSV and text files as rows, each with the number of its line as an editor counts it.

Only "\\n" ends a line, because JSON may contain other separators, such as U+2028. A file is never held in memory, only
one row of up to `MAX_ROW_BYTES`; of a longer row, no more than that. If a single row is wrong, it is reported and the
next row is read. If the rest of a file can no longer be trusted, `Unusable` is raised.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Literal, cast

from aquarat_core.artifacts.bounded import kind_of
from aquarat_core.errors import DataError
from aquarat_core.plain_text import first_line, one_line

MAX_ROW_BYTES = 16 << 20
"""Limit on the size of a row; parsed, a row takes several times as much memory."""
TextRows = Literal["file", "line", "paragraph"]
"""The part of a text file that becomes a row."""
Report = Callable[[int, str], None]
"""Called for a bad row with its line number and the reason."""
Numbered = Iterator[tuple[int, dict[str, Any]]]
"""Rows with the line numbers at which they begin."""
_TOO_LONG = f"it is longer than {MAX_ROW_BYTES >> 20} MiB, the limit for a row"
_NO_UTF8 = "it is not valid UTF-8: save the file in that encoding"
_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Unusable(DataError):
    """A file that cannot be used, as a whole or after some line; the message says why but does not name the file."""


class NamesNoColumn(Unusable):
    """A CSV file whose first line lacks a requested column; the message says which, and which columns there are."""


def json_rows(file: BinaryIO, columns: Sequence[str] | None, report: Report) -> Numbered:
    """The objects of a JSONL file, one per line; skips blank lines. A row must have all `columns`."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
    for number, line in _lines(file, report):
        if not line.strip():
            continue
        try:
            value: object = decoder.decode(line.decode())
        except UnicodeDecodeError:
            report(number, _NO_UTF8)
        except RecursionError:
            report(number, "it is nested too deeply to be read")
        except ValueError as e:
            report(number, f"it is not valid JSON ({_reason(e)}): write one object on each line")
        else:
            if not isinstance(value, dict):
                report(number, f"it is {kind_of(value)}, not an object: write one object on each line")
                continue
            row = cast("dict[str, Any]", value)
            # In valid UTF-8, only an escape can produce half of a surrogate pair.
            if b"\\u" in line and not _writable(row):
                report(number, "it has half of a surrogate pair (\\ud800 to \\udfff), which no text can hold")
            elif missing := [name for name in columns or () if name not in row]:
                report(number, f"it has no {', '.join(missing)} (there are {_listed(row)})")
            else:
                yield number, row if columns is None else {name: row[name] for name in columns}


def csv_rows(file: BinaryIO, columns: Sequence[str] | None, report: Report) -> Numbered:
    """The records of a CSV file (commas, double quotes, line breaks in quotes); the first record names the columns.

    All values are texts. Raises `Unusable` for an invalid header, or a quote that is never closed.
    """
    records = _Records(file, report)
    header = next((record for record in records if record[1]), None)
    if header is None:
        raise Unusable("the file is empty: its first line must name the columns")
    names = header[1]
    if wrong := [name for name in names if not name.strip() or names.count(name) > 1]:
        raise Unusable(f"the first line must name the columns, but the name {wrong[0]!r} is blank or appears twice")
    if missing := [name for name in columns or () if name not in names]:
        raise NamesNoColumn(f"there is no column {', '.join(missing)} (there are {_listed(names)})")
    for number, values in records:
        if not values:
            continue
        if len(values) != len(names):
            report(number, f"it has {len(values)} values, but the first line names {len(names)} columns")
        elif any(_SURROGATE.search(value) for value in values):
            report(number, _NO_UTF8)
        else:
            row: dict[str, Any] = dict(zip(names, values, strict=True))
            yield number, row if columns is None else {name: row[name] for name in columns}


def text_rows(file: BinaryIO, column: str, kind: TextRows, report: Report) -> Numbered:
    """The texts of a text file as column `column`: the whole file, its lines, or blocks separated by blank lines.

    Skips blank texts; a line break in them is always "\\n", even if it is "\\r\\n" in the file.
    """
    held: list[bytes] = []
    start = size = 0

    def text() -> Numbered:
        try:
            if held:
                yield start, {column: b"".join(held).decode().replace("\r\n", "\n").strip("\n")}
        except UnicodeDecodeError:
            report(start, _NO_UTF8)

    def too_long(number: int, reason: str) -> None:
        """Drops a text that is too long, whether a single line is or all its lines together are."""
        nonlocal size, start
        start = start or number
        if size <= MAX_ROW_BYTES:
            report(start, f"{reason}. Split it, or let pretrain_text.documents name shorter parts")
        size = MAX_ROW_BYTES + 1
        held.clear()

    for number, line in _lines(file, too_long):
        blank = not line.strip()
        if kind == "line" or (kind == "paragraph" and blank):
            yield from text()
            held.clear()
            start = size = 0
        if blank and not start:
            continue
        start = start or number
        if size + len(line) > MAX_ROW_BYTES:
            too_long(number, _TOO_LONG)
        else:
            held.append(line)
            size += len(line)
    yield from text()


class _Records(Iterator[tuple[int, list[str]]]):
    """The records of a CSV file with the line numbers at which they begin; reports records that cannot be parsed."""

    def __init__(self, file: BinaryIO, report: Report) -> None:
        self._report = report
        self._start = self._line = self._size = 0
        # A limit for the whole process; the default is smaller than many documents.
        csv.field_size_limit(MAX_ROW_BYTES)
        self._reader = csv.reader(self._texts(file), strict=True)

    def __next__(self) -> tuple[int, list[str]]:
        while True:
            self._start = self._size = 0
            try:
                record = next(self._reader)
            except csv.Error as e:
                if "unexpected end" in str(e):
                    raise Unusable(f"the quote that opens in the row of line {self._start} is never closed") from None
                self._report(self._start, f"it is not valid CSV ({first_line(e)})")
            else:
                return self._start, record

    def _texts(self, file: BinaryIO) -> Iterator[str]:
        for number, line in _lines(file, self._report):
            self._start = self._start or number
            self._size += len(line)
            if self._size > MAX_ROW_BYTES:
                raise Unusable(
                    f"the row that begins in line {self._start} does not end within {MAX_ROW_BYTES >> 20} MiB: "
                    "close its quote"
                )
            # Bytes that are not UTF-8 become surrogates, which identify a bad row.
            yield line.decode(errors="surrogateescape")


def _lines(file: BinaryIO, report: Report) -> Iterator[tuple[int, bytes]]:
    """The lines with line ends and numbers from 1, without a byte order mark; reports a line that is too long."""
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise Unusable("the file is UTF-16: save it as UTF-8")
            line = line.removeprefix(_BOM)
        if len(line) > MAX_ROW_BYTES:
            while not line.endswith(b"\n") and (line := file.readline(MAX_ROW_BYTES)):
                pass
            report(number, _TOO_LONG)
        else:
            yield number, line


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} appears twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _writable(row: dict[str, Any]) -> bool:
    """Whether all texts of the row can be encoded as UTF-8."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: ValueError) -> str:
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else first_line(error)


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    """The first names, in a printable form."""
    found = [one_line(name[:40]) for name in names]
    return ", ".join(found[:20]) + (", ..." if len(found) > 20 else "") if found else "none"
