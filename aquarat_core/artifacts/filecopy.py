"""Copies a file inside the kernel while a thread hashes the copy.

The bytes never pass through the interpreter, and the digest is that of the copied bytes. This uses `sendfile` instead
of `copy_file_range`, because on some kernels and file systems the latter has returned too few or wrong bytes, and a
store has to be right on all of them.
"""

from __future__ import annotations

import errno
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from aquarat_core.artifacts.hashing import Digest, Hasher
from aquarat_core.artifacts.transfer import OnBytes, no_progress

STEP = 4 << 20
"""Bytes copied before they are passed to the hash and to the disk."""
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP)


def copy_hashed(
    source: BinaryIO, sink: BinaryIO, advance: OnBytes = no_progress, *, have: int = 0, to_disk: bool = False
) -> Digest:
    """Copies `source` from byte `have` on to the same position in `sink`; returns the digest of all that `sink` holds.

    Both are unbuffered, and `sink` is new or has `have` bytes. With `to_disk`, the kernel starts to write while copying
    continues, so that little is left to wait for in an fsync afterwards.
    """
    hasher = Hasher()
    hashed: Future[None] | None = None
    at = have
    sink.seek(have)
    with Path(sink.name).open("rb", buffering=0) as written, ThreadPoolExecutor(1) as thread:
        hasher.read(written, have)
        while moved := _move(source, sink, at):
            if to_disk and hasattr(os, "posix_fadvise"):
                # On Linux this starts writing dirty pages and drops clean ones from memory; this early, none are clean.
                os.posix_fadvise(sink.fileno(), at, moved, os.POSIX_FADV_DONTNEED)
            if hashed is None and moved < STEP:
                hasher.read(written, moved)
            else:
                hashed = thread.submit(hasher.read, written, moved)
            at += moved
            advance(moved)
        if to_disk:
            os.fsync(sink.fileno())
        if hashed is not None:
            hashed.result()
    return hasher.digest()


def _move(source: BinaryIO, sink: BinaryIO, at: int) -> int:
    """Copies up to `STEP` bytes and returns their number; 0 at the end of the file, which only a read can confirm."""
    try:
        if moved := os.sendfile(sink.fileno(), source.fileno(), at, STEP):
            return moved
    except OSError as e:
        if e.errno not in _CANNOT:
            raise
    left = memoryview(os.pread(source.fileno(), STEP, at))
    moved = len(left)
    while left:
        left = left[sink.write(left) :]
    return moved
