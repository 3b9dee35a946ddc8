"""Writes a local file in one step: a reader sees the old file or the whole new one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path, *, private: bool = False, durable: bool = False) -> Generator[BinaryIO]:
    """A new file that replaces `path` at the end of the block; if the block raises, `path` stays as it was.

    `private`: only the owner may read or write it, from the first byte on. `durable`: the bytes are on the disk before
    the file gets its name. A killed process leaves a hidden file beside `path`. Raises `OSError`.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
