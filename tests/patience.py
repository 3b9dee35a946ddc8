"""How long the tests wait before they call something hung, on the machine that they run on.

A limit is written in seconds of a quiet machine that needs `_REFERENCE_SECONDS` for the work in `_timed`. A slower
processor, and processes that wait for one, make it longer. What passes does not wait for its limit.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

_REFERENCE_SECONDS = 0.03


@functools.cache
def slowness() -> float:
    """How many times as long as the reference this machine takes for the same work; at least 1."""
    return max(1.0, min(_timed() for _ in range(3)) / _REFERENCE_SECONDS)


def _timed() -> float:
    """Processor seconds, in which waiting for the processor does not count."""
    began = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number & 7
    return time.process_time() - began


def crowding() -> float:
    """Processes that want a processor now, for each that there is; at least 1."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def limit(seconds: float) -> float:
    """`seconds` of a quiet machine in seconds of this one as it is now, for a call that takes a time-out."""
    return seconds * slowness() * max(crowding(), 2.0)


def wait_until(what: Callable[[], Any], seconds: float, why: str, pause: float = 0.1) -> Any:
    """The first true value of `what()`; fails with `why` when more than `seconds` of a quiet machine have passed."""
    spent, last = 0.0, time.monotonic()
    while not (found := what()):
        now = time.monotonic()
        spent += (now - last) / (slowness() * crowding())
        last = now
        assert spent < seconds, f"not within {seconds:.0f} s of a quiet machine: {why}"
        time.sleep(pause)
    return found
