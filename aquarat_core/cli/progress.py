"""Progress bars for large transfers and long computations, on a terminal or if `AQUARAT_PROGRESS` requests them.

There are none where rich is not installed, which comes with the extra `pipeline`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec

from aquarat_core.artifacts.transfer import OnBytes, no_progress


@contextmanager
def transfer_bar(what: str, total: int) -> Generator[OnBytes]:
    """A function to call with the number of bytes as they are transferred; the bar goes to stderr."""
    if not _bars_wanted():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n: progress.advance(task, n)


@contextmanager
def counting_bar() -> Generator[Callable[[int, int, str], None]]:
    """A function to call with what is done, of how much, and its name; the bar goes to stderr."""
    if not _bars_wanted():
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, what: progress.update(task, completed=done, total=total, description=what)


def _bars_wanted() -> bool:
    wanted = os.environ.get("AQUARAT_PROGRESS", "auto")
    return wanted != "plain" and (wanted == "bars" or sys.stderr.isatty()) and find_spec("rich") is not None
