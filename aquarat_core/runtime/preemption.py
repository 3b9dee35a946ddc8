"""How a stage ends when it is asked to stop. Imports nothing heavy, because the stage runner needs it."""

from __future__ import annotations

from collections.abc import Callable

Stop = Callable[[], bool]
"""Whether this process was asked to stop; once true, always true."""


def never() -> bool:
    """The `Stop` of a process that cannot be asked."""
    return False


class Preempted(RuntimeError):
    """The stage was asked to stop and did; started again, it continues from where it was."""


class Abandoned(RuntimeError):
    """A step was given up before it changed anything, because the stage was asked to stop."""
