"""Whether jobs still run, read from the heartbeats that their supervisors write to the store.

Only for jobs that no process of this control host follows: those of another one, and those whose worker is dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from aquarat_core.artifacts import JobDir, StoreError
from aquarat_core.artifacts.errors import RecordError

LOOK_SECONDS = 5.0
SILENT_SECONDS = 90.0
"""A job whose heartbeat did not change for this long is no longer vouched for by the store: its host is asked again."""
ABSENT_SECONDS = 30.0
"""A job that has no heartbeat this long after it was first looked for."""
THREADS = 8

State = Literal["running", "over"]


@dataclass(slots=True)
class _Watched:
    began: float
    changed: float
    status: Any = None
    due: float = 0.0
    reading: Future[Any] | None = None
    state: State = "running"


class Watcher:
    """Looks at heartbeats in threads, because a store may take its time."""

    def __init__(self, now: Callable[[], float] = time.monotonic, read: Callable[[str], Any] | None = None) -> None:
        self._now = now
        self._read = read or read_status
        self._watched: dict[str, _Watched] = {}
        self._pool: ThreadPoolExecutor | None = None

    def look(self, marks: Iterable[str]) -> set[str]:
        """Those of the jobs that have ended, or for which the store no longer vouches. Never waits for the store.

        A job is forgotten when it is left out.
        """
        wanted = set(marks)
        for mark in self._watched.keys() - wanted:
            del self._watched[mark]
        for mark in wanted:
            self._step(self._watched.setdefault(mark, _Watched(self._now(), self._now())), mark)
        return {mark for mark in wanted if self._watched[mark].state == "over"}

    def _step(self, one: _Watched, mark: str) -> None:
        now = self._now()
        if one.reading is None and now >= one.due:
            one.due = now + LOOK_SECONDS
            self._pool = self._pool or ThreadPoolExecutor(THREADS, thread_name_prefix="heartbeats")
            one.reading = self._pool.submit(self._read, mark)
        if one.reading is None or not one.reading.done():
            return
        done, one.reading = one.reading, None
        if done.exception() is not None:
            one.changed = now  # the store could not be read: that says nothing about the job
            return
        status = done.result()
        if status != one.status:
            one.status, one.changed = status, now
        ended = bool(status) and status["state"] == "ended"
        quiet = now - one.changed > (SILENT_SECONDS if status else ABSENT_SECONDS)
        one.state = "over" if ended or quiet else "running"

    def close(self) -> None:
        """Ends the threads."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def read_status(mark: str) -> Any:
    """The last heartbeat of that part of a job; None for none, or one that cannot be read. Raises `StoreError`."""
    uri, _, node = mark.rpartition("#")
    if not node.startswith("node"):
        raise StoreError(f"{mark!r} is not a part of a job")
    try:
        return JobDir.at(uri).read_json(f"status/{node}.json")
    except RecordError:
        return None
