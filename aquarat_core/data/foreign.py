"""Reads Parquet files from other writers, which may crash the process that reads them.

Files from a store have been checked against their writer's digest. A file from elsewhere may contain anything, and
Arrow's reader aborts on some inputs. So a separate process (`data.foreign_reader`) reads the file and writes the
requested columns as an Arrow stream, which is fully validated before use. If that process crashes, the error names the
file.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from aquarat_core.data.foreign_reader import TYPES
from aquarat_core.errors import DataError
from aquarat_core.plain_text import first_line
from aquarat_core.runtime.scratch import scratch_folder

_OWN_DEATHS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP)
"""Signals that a crashing process sends itself; other signals come from outside and say nothing about the file."""


class Unreadable(DataError):
    """A file that cannot be read as Parquet; the message says why."""


class NoColumn(DataError):
    """A Parquet file that lacks a requested column; the message says which, and which columns there are."""


def read_foreign(path: str | Path, columns: Sequence[str] | None, limit: int | None = None) -> pa.Table:
    """The first `limit` rows (default: all) of `columns` (None: all), memory-mapped, from a file that may be damaged.

    Every offset and length in the result has been checked. Texts may be invalid UTF-8, as in any Parquet file;
    dictionary-encoded columns are decoded. Raises `Unreadable` or `NoColumn`.
    """
    with scratch_folder("parquet") as folder:
        out = folder / "columns.arrows"
        said = _read_apart(Path(path), columns, limit, out)
        if "missing" in said:
            raise NoColumn(f"no column {', '.join(said['missing'])} (there are {', '.join(said['there'])})")
        if "unreadable" in said:
            raise Unreadable(said["unreadable"])
        try:
            # The mapping keeps the bytes after the folder is gone.
            table = pa.ipc.open_stream(pa.memory_map(str(out))).read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError) as e:
            raise Unreadable(f"its values contradict each other: {first_line(e)}") from None
    types = pa.ipc.read_schema(pa.py_buffer(table.schema.metadata[TYPES]))
    # "Unsafe" means without a check for UTF-8; bytes and texts have the same layout in memory.
    columns_ = [table.column(i).cast(options=pc.CastOptions.unsafe(kind)) for i, kind in enumerate(types.types)]
    return pa.table(columns_, schema=types)


def _read_apart(path: Path, columns: Sequence[str] | None, limit: int | None, out: Path) -> dict[str, str | list[str]]:
    """The reader process's reply. If the file crashed the process, the reply is that the file is unreadable."""
    arguments = [str(path), str(out), json.dumps([columns and list(columns), limit])]
    done = subprocess.run(
        [sys.executable, "-m", "aquarat_core.data.foreign_reader", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode == 0:
        return json.loads(done.stdout)
    last = (done.stderr.strip().splitlines() or [""])[-1][:200]
    if -done.returncode in _OWN_DEATHS:
        name = signal.Signals(-done.returncode).name
        return {"unreadable": f"it crashes the process that reads it with {name}{f' ({last})' if last else ''}"}
    raise RuntimeError(f"the reader process for {path} ended with {done.returncode}: {last}")
