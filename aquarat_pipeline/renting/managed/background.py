"""Work that takes longer than a keeper may wait: one thread each, whose outcome is fetched in a later turn.

A thread keeps nothing alive: when the keeper's process ends, so does its work, and the next keeper begins it anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Work(Generic[T]):
    """One call, which begins at once."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._outcome: T | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._call()
        except Exception as e:
            self._error = e

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def outcome(self) -> T:
        """What the call returned, or raises what it raised. It must be `done`."""
        if self._error is not None:
            raise self._error
        assert self.done and self._outcome is not None
        return self._outcome
