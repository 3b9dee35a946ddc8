"""How a stage stops on request. Imports nothing heavy, because the stage runner needs it."""

from __future__ import annotations

from collections.abc import Callable

Stop = Callable[[], bool]
"""Returns whether this process was asked to stop; never goes back to False."""


def never() -> bool:
    """A `Stop` for processes that cannot be asked to stop."""
    return False


class Preempted(RuntimeError):
    """The stage stopped on request; started again, it continues from that point."""


class Abandoned(RuntimeError):
    """A step was abandoned before it changed anything, because the stage was asked to stop."""
