"""Rows of a user's data, wherever they are: the single reader of a user's own texts, conversations and tasks.

    reader = RowReader(location, BadRows(shown(location), "chat_datasets", "drop"), log)
    for row in reader.rows(["question", "answer"]):
            row.values["question"], row.where      # ..., "train.jsonl, line 7"
        reader.files                               # the files that were read, with their hashes

Rows are streamed: one row at a time is held in memory, read from a JSONL, CSV or text file, or from the columns of a
Parquet file that a separate process wrote to a scratch folder (`data.foreign`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from aquarat_core.artifacts.hashing import digest_file
from aquarat_core.config.local_files import combined, format_of, local_files
from aquarat_core.config.locations import HubRows, short_name, shown, split_pin
from aquarat_core.data import hub
from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.foreign import NoColumn, Unreadable, read_foreign
from aquarat_core.data.remote_files import RemoteFile, remote_files
from aquarat_core.data.row_files import NamesNoColumn, TextRows, Unusable, csv_rows, json_rows, text_rows
from aquarat_core.errors import DataError
from aquarat_core.plain_text import one_line
from aquarat_core.runtime.scratch import scratch_folder

NAME_A_COLUMN = "Name a column that is there, under column"
"""What to do about a missing column where the config has a field `column`."""
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)


@dataclass(frozen=True, slots=True)
class Row:
    """One row and its position."""

    values: dict[str, Any]
    """Values by column. A text in Parquet that is not valid UTF-8 is given as bytes."""
    where: str
    """`train.jsonl, line 7`; for Parquet `part-0.parquet, row 7`. Both count from 1."""


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file that was read."""

    name: str
    bytes: int
    sha256: str


class RowReader:
    """The rows of one location. Unparsable rows go to `bad`; `files` and `revision` say what was read."""

    def __init__(
        self,
        location: str | HubRows,
        bad: BadRows,
        log: hub.Log = lambda text: None,
        *,
        advice: str = "Name a column that is there",
    ) -> None:
        self.location, self.bad, self.log, self.advice = location, bad, log, advice
        self.where, self.name = shown(location), short_name(location)
        self.files: list[ReadFile] = []
        """The files read so far, in order."""
        self.revision: str | None = None
        """The commit of a data set on the Hub."""

    def rows(self, columns: Sequence[str] | None = None, text: TextRows | None = None) -> Iterator[Row]:
        """All rows with `columns` (default: all columns), in the order of files and lines.

        With `text` and one column, text files are read too: a row is a file, a line or a paragraph. Raises `DataError`
        for a location or file that cannot be read, a missing column, content that does not match the location's hash,
        and a bad row if `bad` says so.
        """
        if isinstance(self.location, HubRows):
            yield from self._hub_rows(self.location, columns)
            return
        place, pin = split_pin(self.location)
        files: Sequence[tuple[str, Path | RemoteFile]]
        if "://" in place:
            files = [(file.name, file) for file in remote_files(place, self.log)]
        else:
            files = self._local_files(place, text is not None)
        if text is None:
            files = [file for file in files if format_of(file[0]) != "text"]
        if not files:
            raise DataError(
                f"{self.where}: there are only text files, but rows with columns are needed. Write them as JSONL"
            )
        self.files = []
        for name, file in files:
            with self._opened(name, file) as path:
                if len(files) == 1:  # A single file is compared before any of its rows is used.
                    self._compare(pin)
                yield from self._file_rows(name, path, columns, text)
        self._compare(pin)

    @property
    def sha256(self) -> str | None:
        """One hash for all files that were read, as in `local_files.combined`; None for a data set on the Hub."""
        return combined([(file.name, file.sha256) for file in self.files]) if self.files else None

    def described(self) -> dict[str, Any]:
        """What was read, for the artifact's description; the same on every machine."""
        if isinstance(self.location, HubRows):
            return {**self.location.model_dump(exclude_none=True), "revision": self.revision}
        return {"name": self.name, "files": [asdict(file) for file in self.files]}

    def _local_files(self, place: str, text: bool) -> list[tuple[str, Path]]:
        try:
            return local_files(place, text=text)
        except ValueError as e:
            raise DataError(
                f"{e}. A local path has to be there on the host that runs the stage; gs://, s3://, hf:// and https:// "
                "are read from any host"
            ) from None

    @contextmanager
    def _opened(self, name: str, file: Path | RemoteFile) -> Generator[Path]:
        """A local copy of the file, recorded in `files`. Raises `DataError` if the file changes while it is read."""
        with ExitStack() as stack:
            if isinstance(file, RemoteFile):
                path = stack.enter_context(scratch_folder("rows")) / f"file{Path(name).suffix}"
                self.log(f"{self.where}: fetching {one_line(name)}")
                file.fetch(path, self.log)
            else:
                path = file
            try:
                before = path.stat()
                digest = digest_file(path)
                self.files.append(ReadFile(name, digest.size, digest.sha256))
                yield path
                after = path.stat()
            except OSError as e:
                raise DataError(f"{self.where}: {one_line(name)} cannot be read: {e.strerror or e}") from None
        if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
            raise DataError(f"{self.where}: {one_line(name)} was changed while it was read. Start the stage again")

    def _compare(self, pin: str | None) -> None:
        if pin not in (None, self.sha256):
            raise DataError(
                f"{self.where} has other content (SHA-256 {self.sha256}) than the stage's config names ({pin}): it has "
                "changed since the run began, or is another file on this host. Start a new run, or restore the file"
            )

    def _file_rows(self, name: str, path: Path, columns: Sequence[str] | None, text: TextRows | None) -> Iterator[Row]:
        kind, shown_name = format_of(name), one_line(name)
        if kind == "parquet":
            yield from self._parquet_rows(shown_name, path, columns)
            return

        def report(number: int, reason: str) -> None:
            self.bad.add_at(f"{shown_name}, line {number}", reason)

        with path.open("rb") as file:
            match kind:
                case "csv":
                    found = csv_rows(file, columns, report)
                case "text" if text and columns and len(columns) == 1:
                    found = text_rows(file, columns[0], text, report)
                case _:
                    found = json_rows(file, columns, report)
            try:
                for number, values in found:
                    yield Row(values, f"{shown_name}, line {number}")
            except NamesNoColumn as e:
                raise DataError(f"{self.where}: {shown_name}: {e}. {self.advice}") from None
            except Unusable as e:
                raise DataError(f"{self.where}: {shown_name}: {e}") from None

    def _parquet_rows(self, name: str, path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
        try:
            table = read_foreign(path, columns)
        except NoColumn as e:
            raise DataError(f"{self.where}: {name}: {e}. {self.advice}") from None
        except Unreadable as e:
            raise DataError(f"{self.where}: {name} is not readable as Parquet: {e}. Write it again") from None
        self._check_texts(table, columns, name)
        for number, values in enumerate(hub.rows(table), 1):
            yield Row(values, f"{name}, row {number}")

    def _check_texts(self, table: pa.Table, columns: Sequence[str] | None, name: str) -> None:
        """Raises `DataError` if one of the columns that are asked for holds bytes: nothing reads those."""
        for column in columns or ():
            kind = cast("pa.DataType", table.column(column).type)
            if any(is_one(kind) for is_one in _BINARY):
                raise DataError(f"{self.where}: {name}: column {column} is binary, not text. {self.advice}")

    def _hub_rows(self, location: HubRows, columns: Sequence[str] | None) -> Iterator[Row]:
        data = hub.HubDataset.open(location.hub, self.log)
        self.revision = data.revision
        table = data.split([location.subset], location.split, columns, location.first_files, self.advice)
        self._check_texts(table, columns, f"split {location.split}")
        for number, values in enumerate(hub.rows(table), 1):
            yield Row(values, f"split {location.split}, row {number}")
