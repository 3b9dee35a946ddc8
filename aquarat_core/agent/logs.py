"""Keeps the logs of a job's ranks, which torchrun writes as long as the job prints, from filling the disk.

While the job runs, the older part of a large log is released to the file system without moving the rest, so writers and
readers are not disturbed. When the job has ended, a line in the log says how much is missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LOG_BYTES = 64 << 20
"""Limit on each log's disk space in bytes; a log that reaches it is cut to its latest half."""
_KEEP_SIZE_PUNCH_HOLE = 3


def logs(folder: Path) -> Iterator[Path]:
    """Every log in `folder` and its folders. The job may remove folders meanwhile, at which `Path.rglob` raises."""
    for inside, _, names in os.walk(folder):
        yield from (Path(inside, name) for name in names if name.endswith(".log"))


def bound(folder: Path, limit: int) -> None:
    """Frees all but the last `limit` / 2 bytes of every log in `folder` that takes more than `limit`."""
    for path in logs(folder):
        with suppress(OSError):
            found = path.stat()
            if found.st_blocks * 512 > limit:
                _free(path, found.st_size - limit // 2)


def close(folder: Path, limit: int) -> None:
    """Replaces what `bound` removed from the logs by a line that says so; call it when their writers have ended."""
    for path in logs(folder):
        with suppress(OSError):
            size = path.stat().st_size
            if size <= limit:
                continue
            with path.open("rb") as f:
                f.seek(size - limit // 2)
                rest = f.read().lstrip(b"\0")
            missing = size - len(rest)
            temporary = path.with_suffix(".cut")
            mark = f"[{missing} bytes of this log were removed: it is kept below {limit}]\n"
            temporary.write_bytes(mark.encode() + rest)
            os.replace(temporary, path)


def _free(path: Path, size: int) -> None:
    """Releases the first `size` bytes to the file system; they then read as zeros."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(path, os.O_WRONLY)
    try:
        args = (handle, _KEEP_SIZE_PUNCH_HOLE, ctypes.c_int64(0), ctypes.c_int64(size))
        if libc.fallocate(*args):
            # This file system cannot punch holes. Truncating also works: the writer continues at its offset, after a
            # hole.
            os.truncate(path, 0)
    finally:
        os.close(handle)
