"""Starts the follower of parked runs (`follower.py`) unless one is at work: there is never a second one."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

LIVED_SECONDS, FIRST_PAUSE, MAX_PAUSE = 60.0, 5.0, 300.0
"""After the start of one that died sooner than the first, the pause before the next start doubles."""
LOCK = "AQUARAT_FOLLOWER_LOCK"
"""Environment variable with the descriptor of the lock that a follower gets."""
MAX_LOG_BYTES = 4 << 20


def start(home: Path) -> bool:
    """Starts a follower with this process's environment, unless one is at work or on its way; whether it did.

    The lock is taken here and handed to the new process, so that there is never a second one, however long the first
    takes to come up. The kernel frees it when that process dies; the next one is then started after a growing pause.
    """
    path = lock_of(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        now, last = time.time(), _last_start(path)
        # Whoever is at work touches the file.
        short = last.short + 1 if last and os.fstat(lock.fileno()).st_mtime - last.at < LIVED_SECONDS else 0
        if last and 0 <= now - last.at < min(FIRST_PAUSE * 2**short, MAX_PAUSE):
            return False
        child = _spawn(home, lock.fileno())
        lock.truncate(0)
        lock.write(json.dumps({"pid": child, "at": now, "short": short}))
    return True


def _spawn(home: Path, lock: int) -> int:
    """The id of a new process that has the lock."""
    path = home / "aquarat" / "follower.log"
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "aquarat_pipeline.runs.follower"],
            env={**os.environ, "DAGSTER_HOME": str(home), LOCK: str(lock)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            pass_fds=(lock,),
        ).pid


@dataclass(frozen=True, slots=True)
class _Start:
    """The last start, as the lock's file says."""

    pid: int
    at: float
    short: int
    """How many followers in a row, before this one, died soon after they were started."""


def _last_start(path: Path) -> _Start | None:
    with suppress(ValueError):
        return TypeAdapter(_Start).validate_json(path.read_bytes())
    return None


def lock_of(home: Path) -> Path:
    """The file that a follower holds, with its process id as JSON."""
    return home / "aquarat" / "follower.lock"
