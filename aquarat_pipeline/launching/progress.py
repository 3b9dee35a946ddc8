"""Where a running stage's progress goes: to bars on the terminal, and to Dagster as observations that it plots live."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

OBSERVE_SECONDS = 10.0

Message = Mapping[str, Any]
"""`{"aquarat": "progress", "done": d, "total": n, "unit": u, "metrics": {name: number}}`"""


def _terminal() -> int | None:
    """A descriptor of the user's terminal, taken when this module loads: Dagster redirects stderr while steps run."""
    wanted = os.environ.get("AQUARAT_PROGRESS", "auto")
    if wanted == "bars" or (wanted == "auto" and os.isatty(2)):
        return os.dup(2)
    return None


TERMINAL = _terminal()


@contextmanager
def display(name: str) -> Iterator[Callable[[Message], None]]:
    """A function that shows a message as `name`'s progress bar, while the block runs."""
    if TERMINAL is None:
        yield lambda message: None
        return
    with os.fdopen(os.dup(TERMINAL), "w") as stream:
        console = Console(file=stream)
        with _bars(console) as progress:
            task = progress.add_task(name, total=None, unit="", metrics="")
            lines = _Throttle(OBSERVE_SECONDS)

            def show(message: Message) -> None:
                numbers = list(message["metrics"].items())[: 1 if console.width < 100 else 3]
                metrics = "  ".join(f"{name} {value:.4g}" for name, value in numbers)
                done, total, unit = message["done"], message["total"], message["unit"]
                progress.update(task, completed=done, total=total, unit=unit, metrics=metrics)
                if not console.is_terminal and lines.due():
                    console.print(f"{name}: {done} of {total} {unit}  {metrics}", highlight=False, markup=False)

            yield show
            # A stage that stops before its most, as a corpus that is shorter than its budget, is done all the same.
            done = progress.tasks[task].completed or 1
            progress.update(task, completed=done, total=done)


class Observations:
    """Logs a stage's numbers to Dagster, at most one observation in ten seconds, and always the last one."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._throttle = _Throttle(OBSERVE_SECONDS)

    def __call__(self, message: Message) -> None:
        last = message["done"] >= message["total"]
        if not (self._throttle.due() or last):
            return
        numbers = {name: float(value) for name, value in message["metrics"].items() if math.isfinite(value)}
        self._context.log_event(
            dg.AssetObservation(
                self._context.asset_key,
                description=f"{message['done']} of {message['total']} {message['unit']}",
                metadata={"progress/done": message["done"], "progress/total": message["total"], **numbers},
            )
        )


class _Throttle:
    """`due()` is true at most once in `seconds`, the first time `seconds` after it was made."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<17}", markup=False),
        BarColumn(bar_width=10),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[unit]}", markup=False),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[metrics]}", style="dim", markup=False),
        console=console,
        refresh_per_second=4,
        # Dagster's log lines go where the caller sent them, not between the bars.
        redirect_stdout=False,
        redirect_stderr=False,
    )
