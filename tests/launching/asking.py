"""Asking the allocator, as a step that waits does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from aquarat_pipeline.hosts.allocator import Allocator
from aquarat_pipeline.hosts.queueing import Answer, ticket
from aquarat_pipeline.hosts.requirement import Requirement


def turn(home: Path, now: Callable[[], float] = time.time) -> None:
    """One turn of an allocator that begins its work."""
    allocator = Allocator(home, now)
    try:
        allocator.turn()
    finally:
        allocator.close()


def answer_to(home: Path, need: Requirement, avoid: Iterable[str] = (), now: Callable[[], float] = time.time) -> Answer:
    """What the only waiting step is told."""
    with ticket(home, "run", "step", 1.0, need, avoid=avoid) as mine:
        turn(home, now)
        answer = mine.answer()
    assert answer is not None
    return answer
