"""Durations and ages in a readable form."""

from __future__ import annotations

import time
from datetime import datetime


def duration(seconds: float) -> str:
    """Approximate duration with at most two digits: `44 s`, `83 min`, `2.5 h`, `72 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{float(f'{hours:.2g}'):.0f} h"


def ago(moment: float) -> str:
    """How long ago that moment, in seconds since 1970, was: `2 h ago`."""
    seconds = max(0.0, time.time() - moment)
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"


def age(created: str) -> str:
    """How long ago an artifact was made, in at most six characters, for tables: `44 min`, `3 h`, `12 d`.

    `created` is a manifest's time, in ISO format.
    """
    seconds = max(0.0, time.time() - datetime.fromisoformat(created).timestamp())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= (2 * size if unit == "d" else size):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
