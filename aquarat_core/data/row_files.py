"""JSONL, CSV and text files as rows, each with the number of its line as an editor counts it.

Only "\\n" ends a line: JSON may hold other separators, such as U+2028. A file is never held: a row is, up to
`MAX_ROW_BYTES`, and of a longer one no more than that. What is wrong with a single row is reported and the next row is
read; what makes the rest of a file doubtful raises
`Unusable`.
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
"""The most that one row may have; parsed, it takes several times that."""
TextRows = Literal["file", "line", "paragraph"]
"""What a row of a text file is."""
Report = Callable[[int, str], None]
"""Told of a bad row: the number of its line, and the reason."""
Numbered = Iterator[tuple[int, dict[str, Any]]]
"""Rows with the numbers of the lines at which they begin."""
_TOO_LONG = f"it is longer than {MAX_ROW_BYTES >> 20} MiB, which is the most a row may have"
_NO_UTF8 = "it is not valid UTF-8: save the file in that encoding"
_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Unusable(DataError):
    """A file that cannot be used, or not from some line on; the message says why, but not which file."""


def json_rows(file: BinaryIO, columns: Sequence[str] | None, report: Report) -> Numbered:
    """The objects of a JSONL file, one a line; blank lines are passed over. Of `columns`, all must be in a row."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
    for number, line in _lines(file, report):
        if not line.strip():
            continue
        try:
            value: object = decoder.decode(line.decode())
        except UnicodeDecodeError:
            report(number, _NO_UTF8)
        except RecursionError:
            report(number, "it is nested too deep to be read")
        except ValueError as e:
            report(number, f"it is not valid JSON ({_reason(e)}): write one object on each line")
        else:
            if not isinstance(value, dict):
                report(number, f"it is {kind_of(value)}, not an object: write one object on each line")
                continue
            row = cast("dict[str, Any]", value)
            # Only an escape can bring half of a surrogate pair into valid UTF-8.
            if b"\\u" in line and not _writable(row):
                report(number, "it has half of a surrogate pair (\\ud800 to \\udfff), which no text can hold")
            elif missing := [name for name in columns or () if name not in row]:
                report(number, f"it has no {', '.join(missing)} (there are {_listed(row)})")
            else:
                yield number, row if columns is None else {name: row[name] for name in columns}


def csv_rows(file: BinaryIO, columns: Sequence[str] | None, report: Report) -> Numbered:
    """The records of a CSV file whose first one names the columns: commas, double quotes, line breaks inside quotes.

    All values are texts. Raises `Unusable` for a header that cannot be used, or a quote that is never closed.
    """
    records = _Records(file, report)
    header = next((record for record in records if record[1]), None)
    if header is None:
        raise Unusable("the file is empty: its first line has to name the columns")
    names = header[1]
    if wrong := [name for name in names if not name.strip() or names.count(name) > 1]:
        raise Unusable(f"the first line has to name the columns, and the name {wrong[0]!r} is blank or there twice")
    if missing := [name for name in columns or () if name not in names]:
        raise Unusable(f"there is no column {', '.join(missing)} (there are {_listed(names)})")
    for number, values in records:
        if not values:
            continue
        if len(values) != len(names):
            report(number, f"it has {len(values)} values, and the first line names {len(names)} columns")
        elif any(_SURROGATE.search(value) for value in values):
            report(number, _NO_UTF8)
        else:
            row: dict[str, Any] = dict(zip(names, values, strict=True))
            yield number, row if columns is None else {name: row[name] for name in columns}


def text_rows(file: BinaryIO, column: str, kind: TextRows, report: Report) -> Numbered:
    """The texts of a text file under the name `column`: the file, its lines, or what blank lines separate.

    Blank texts are passed over; a line break is "\\n" in them, also where it is "\\r\\n" in the file.
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
        """Of a text that is too long nothing is kept, whether one line is or all are together."""
        nonlocal size, start
        start = start or number
        if size <= MAX_ROW_BYTES:
            report(start, f"{reason}. Divide it, or let pretrain_text.documents name shorter parts")
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
    """The records of a CSV file with the lines at which they begin; what cannot be parsed is reported."""

    def __init__(self, file: BinaryIO, report: Report) -> None:
        self._report = report
        self._start = self._line = self._size = 0
        # A limit for the whole process; the default is less than many a document.
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
            # What is not UTF-8 becomes surrogates, by which the row is known.
            yield line.decode(errors="surrogateescape")


def _lines(file: BinaryIO, report: Report) -> Iterator[tuple[int, bytes]]:
    """The lines with their ends and numbers, from 1, without a byte order mark; one that is too long is reported."""
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
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _writable(row: dict[str, Any]) -> bool:
    """Whether all texts of the row can be written as UTF-8."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: ValueError) -> str:
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else first_line(error)


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    """The first names, in a form that can be shown."""
    found = [one_line(name[:40]) for name in names]
    return ", ".join(found[:20]) + (", ..." if len(found) > 20 else "") if found else "none"
