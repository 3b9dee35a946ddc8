"""Shows a running stage's progress on the terminal, as bars or lines. `telling.py` shows it in Dagster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from aquarat_core.durations import duration

OBSERVE_SECONDS = 10.0


class Message(TypedDict):
    """A stage's progress; in Dagster Pipes it also has `"aquarat": "progress"`."""

    done: int
    total: int
    unit: str
    metrics: dict[str, float]


def _terminal() -> int | None:
    """A descriptor of the user's terminal, saved when this module loads, because Dagster redirects stderr during
    steps."""
    wanted = os.environ.get("AQUARAT_PROGRESS", "auto")
    if wanted == "bars" or (wanted == "auto" and os.isatty(2)):
        return os.dup(2)
    return None


TERMINAL = _terminal()


@dataclass(frozen=True, slots=True)
class Ahead:
    """A stage's position in its run, and how long the rest took before; None if a stage never ran with its config."""

    number: int
    total: int
    this: float | None = None
    later: float | None = None

    def left(self, elapsed: float) -> str:
        """`about 12 min left`, `elapsed` seconds into the stage; empty if unknown."""
        if self.this is None or self.later is None:
            return ""
        return f"about {duration(max(self.this - elapsed, 0.0) + self.later)} left"

    def __str__(self) -> str:
        return f"stage {self.number} of {self.total}"


class Display:
    """The display of one stage: call it with its messages; `say` shows what happens before the first of them."""

    def __call__(self, message: Message) -> None:
        """Shows the stage's progress."""

    def say(self, text: str) -> None:
        """Shows what the stage is doing now."""


@contextmanager
def display(name: str, ahead: Ahead | None = None) -> Generator[Display]:
    """Shows the progress of `name`, and above it that of the run, during the block."""
    if TERMINAL is None:
        yield Display()
        return
    with os.fdopen(os.dup(TERMINAL), "w") as stream:
        console = Console(file=stream)
        if not console.is_terminal:
            yield _Lines(console, name, ahead)
            return
        with _bars(console) as progress:
            bars = _Bars(progress, console.width, name, ahead)
            yield bars
            bars.finish()


class _Lines(Display):
    """Prints a line every few seconds if there is no terminal."""

    def __init__(self, console: Console, name: str, ahead: Ahead | None) -> None:
        self._console, self._name = console, name
        self._throttle = _Throttle(OBSERVE_SECONDS)
        self._said = ""
        if ahead:
            left = ahead.left(0.0)
            self.say(f"{ahead}{', ' + left if left else ''}")

    def __call__(self, message: Message) -> None:
        if message["done"] >= message["total"] or self._throttle.due():
            numbers = _figures(message, 3)
            self.say(f"{message['done']} of {message['total']} {message['unit']}  {numbers}".rstrip())

    def say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._console.print(f"{self._name}: {text}", highlight=False, markup=False, soft_wrap=True)


class _Bars(Display):
    """Two rows of a live display: the stage, and the run that it belongs to."""

    def __init__(self, progress: Progress, width: int, name: str, ahead: Ahead | None) -> None:
        self._progress, self._most = progress, 1 if width < 100 else 3
        self._last = ""
        self._stage = progress.add_task(name, total=None, unit="", metrics="")
        self._run = None
        if ahead:
            began = time.monotonic()
            left = lambda: ahead.left(time.monotonic() - began)  # noqa: E731
            self._run = progress.add_task(
                str(ahead), total=ahead.total, completed=ahead.number - 1, unit="stages", metrics=left
            )

    def __call__(self, message: Message) -> None:
        done, total = message["done"], message["total"]
        self._last = _figures(message, self._most)
        # Work after the last step, such as writing a report, takes time too.
        metrics = self._last if done < total else "finishing"
        self._progress.update(self._stage, completed=done, total=total, unit=message["unit"], metrics=metrics)

    def say(self, text: str) -> None:
        self._progress.update(self._stage, metrics=text)

    def finish(self) -> None:
        """Leaves only the stage's full bar on the screen."""
        if self._run is not None:
            self._progress.remove_task(self._run)
        # A stage may end before its total, for example if a corpus is shorter than its budget.
        done = next(task.completed for task in self._progress.tasks if task.id == self._stage) or 1
        self._progress.update(self._stage, completed=done, total=done, metrics=self._last)


def _figures(message: Message, most: int) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in list(message["metrics"].items())[:most])


class _Last(ProgressColumn):
    """The end of a row: a text, or a function that is called at every refresh."""

    def render(self, task: Task) -> Text:
        metrics: str | Callable[[], str] = task.fields["metrics"]
        return Text(metrics() if callable(metrics) else metrics, style="dim", no_wrap=True, overflow="ellipsis")


class _Throttle:
    """`due()` is true at most once in `seconds`, and first `seconds` after creation."""

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
        _Last(table_column=Column(no_wrap=True)),
        console=console,
        refresh_per_second=4,
        # Keeps Dagster's log lines on the stream that the caller chose, instead of between the bars.
        redirect_stdout=False,
        redirect_stderr=False,
    )
