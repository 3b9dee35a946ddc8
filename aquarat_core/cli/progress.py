"""A progress bar with a rate for large transfers, on a terminal or if `AQUARAT_PROGRESS` requests it."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

from aquarat_core.artifacts.transfer import OnBytes, no_progress


@contextmanager
def transfer_bar(what: str, total: int) -> Generator[OnBytes]:
    """A function to call with the number of bytes as they are transferred; the bar goes to stderr."""
    wanted = os.environ.get("AQUARAT_PROGRESS", "auto")
    if wanted == "plain" or (wanted != "bars" and not sys.stderr.isatty()):
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n: progress.advance(task, n)
