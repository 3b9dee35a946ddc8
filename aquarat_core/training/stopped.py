"""How a stage ends that was asked to stop. Imports nothing heavy: the stage runner tells it from a failure."""

from __future__ import annotations


class Stopped(RuntimeError):
    """The stage was asked to stop and did; started again, it goes on from where it was."""
