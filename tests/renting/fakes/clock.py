"""Time that tests set. Sleeping lets it pass at once."""

from __future__ import annotations

import threading
import time

START = 1_796_000_000.0


class FakeClock:
    """Unix seconds, the same for the fake cloud and for who uses it."""

    def __init__(self, start: float = START) -> None:
        self._now = start
        self._lock = threading.Lock()

    def now(self) -> float:
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        """Lets the time pass that somebody wants to wait."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        assert seconds >= 0
        with self._lock:
            self._now += seconds


class WallClock(FakeClock):
    """The real time, for processes that cannot be given another."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def advance(self, seconds: float) -> None:
        raise AssertionError("real time cannot be made to pass")
