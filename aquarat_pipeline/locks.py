"""A file that a process holds as long as it lives, with who it is as its text. The kernel releases it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


class HeldError(RuntimeError):
    """Another process holds the file; `holder` is what it says in it."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by {holder}")
        self.holder = holder


@contextmanager
def held(path: Path, holder: str) -> Generator[None]:
    """Holds the file, with `holder` as its text. Raises `HeldError` if another process does."""
    # Never removed: a process that had just opened it would lock a file that no other process sees.
    with path.open("a+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldError(path.read_text()) from None
        with suppress(OSError):  # a full disk: the lock holds without its text
            f.truncate(0)
            os.write(f.fileno(), holder.encode())
        yield


@contextmanager
def waited_for(path: Path) -> Generator[None]:
    """Holds the file, once no other process does."""
    with path.open("a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the file."""
    try:
        with path.open() as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
