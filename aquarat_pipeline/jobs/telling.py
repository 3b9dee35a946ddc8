"""Shows a running stage's progress in Dagster's UI: observations on the asset's page, and lines in the run's log.

Every observation is an entry in the asset's history, where people look for its materializations, so there are at most
about a dozen. The lines are engine events: the log of the run has them, a terminal does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

import dagster as dg

from aquarat_core.durations import duration
from aquarat_pipeline.jobs.progress import OBSERVE_SECONDS, Message

PROGRESS = "Progress: "
"""The beginning of every line about progress."""
ETA = "time/eta"
"""The metric in which a stage reports the seconds that it still needs."""
OBSERVED_SHARE, TOLD_SHARE = 0.1, 0.01
"""Shares of a stage's work after which there is another observation, and another line."""
MAX_SILENCE = 300.0
"""Seconds after which there is another line in any case."""


class Told(Protocol):
    """What is told of: a step in its own process, or that of a parked run."""

    @property
    def asset_key(self) -> dg.AssetKey: ...
    @property
    def instance(self) -> dg.DagsterInstance: ...
    @property
    def run(self) -> dg.DagsterRun: ...
    def log_event(self, event: dg.AssetObservation) -> None: ...


class Teller:
    """Tells Dagster what a stage is doing: call it with the stage's messages; `say` with what happens before them."""

    def __init__(self, context: Told, clock: Callable[[], float] = time.monotonic) -> None:
        self._context, self._clock = context, clock
        self._step_key = context.asset_key.to_python_identifier()
        self._first: tuple[float, int] | None = None
        self._observed, self._told = _Due(OBSERVED_SHARE), _Due(TOLD_SHARE)
        self._said = ""

    def __call__(self, message: Message) -> None:
        now, done, total = self._clock(), message["done"], message["total"]
        self._first = self._first or (now, done)
        ends = done >= total
        observe, tell = self._observed(now, done, total) or ends, self._told(now, done, total) or ends
        if not (observe or tell):
            return
        numbers = {name: float(f"{value:.4g}") for name, value in message["metrics"].items() if math.isfinite(value)}
        text = f"{done:,} of {total:,} {message['unit']}{self._left(now, done, total, numbers.pop(ETA, None))}"
        if tell:
            shown = "".join(f"  {name} {value:g}" for name, value in list(numbers.items())[:3])
            self.say(f"{PROGRESS}{text}{shown}")
        if observe:
            self._context.log_event(
                dg.AssetObservation(self._context.asset_key, description=text, metadata=dict(numbers))
            )

    def say(self, text: str) -> None:
        """Writes a line to the run's log, unless it is the last one again."""
        if text != self._said:
            self._said = text
            self._context.instance.report_engine_event(text, self._context.run, step_key=self._step_key)

    def _left(self, now: float, done: int, total: int, eta: float | None) -> str:
        """`, about 4 min left`: by the stage's own estimate, or if it goes on like since its first message."""
        assert self._first is not None
        began, before = self._first
        if not before < done < total:
            return ""
        seconds = eta if eta is not None else (now - began) * (total - done) / (done - before)
        return f", about {duration(seconds)} left"


class _Due:
    """True at first; then after a share of the work and some seconds, or after `MAX_SILENCE` if the share is small."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._last: tuple[float, int] | None = None

    def __call__(self, now: float, done: int, total: int) -> bool:
        if self._last is not None:
            moment, before = self._last
            enough = now - moment >= OBSERVE_SECONDS and done - before >= self._share * total
            silent = self._share == TOLD_SHARE and now - moment >= MAX_SILENCE
            if not (enough or silent):
                return False
        self._last = now, done
        return True
