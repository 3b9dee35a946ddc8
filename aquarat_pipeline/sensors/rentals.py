"""The sensor that shows the ledger of rentals in the UI, and what else belongs there for those who rent.

It never speaks with a cloud: the keeper does, in a process of its own, and a cloud that does not answer must not keep
Dagster's sensors waiting. Where nothing was ever rented and there is no rent.yaml, nothing of this is defined.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import dagster as dg

from aquarat_core.artifacts import StoreError
from aquarat_core.settings import store_uri
from aquarat_pipeline.assets import rentals as shown
from aquarat_pipeline.checks.rentals import CHECKS
from aquarat_pipeline.renting import heartbeats, watching
from aquarat_pipeline.renting.heartbeats import Heartbeat
from aquarat_pipeline.renting.ledger import Ledger

SECONDS = 30
"""Shortest time between two ticks."""
AGAIN_SECONDS = 3600.0
"""A check whose outcome stays the same is recorded again so often while something is rented."""
BEATS_SECONDS = 300.0
"""The store is asked for heartbeats so often."""
PATIENCE_SECONDS = 2.0
MOST = 50
"""Observations of one tick; the others come with the next."""


def rented_hosts(home: Path | None, now: Callable[[], float] = time.time) -> dg.Definitions:
    """The asset, its checks and the sensor; nothing if nobody has ever rented here or set it up."""
    if home is None or not watching.anything_here(home):
        return dg.Definitions()
    watch = _Watch(now)
    return dg.Definitions(assets=[shown.asset()], asset_checks=[shown.checks(watch.look)], sensors=[_sensor(watch)])


def _sensor(watch: _Watch) -> dg.SensorDefinition:
    @dg.sensor(  # pyright: ignore[reportUnknownMemberType]  # a generic class without its argument
        name="watch_rentals",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Shows each change of a rental as an observation of rented_hosts, and evaluates its checks. Reads the "
            "ledger on this machine; asks no cloud, and ends nothing."
        ),
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        state = State.read(context.cursor)
        known = watch.look(context.instance)
        if context.cursor is None:
            # What was over before anybody watched is no news.
            state.seen |= {rental.id: len(rental.events) for rental in known.rentals if rental.final}
        events = [*_changes(known, state), *_evaluations(known, state)]
        said = f"{len(known.open)} open, {len(known.rentals)} in all." if known.rentals else "Nothing was rented yet."
        return dg.SensorResult(skip_reason=said, cursor=state.to_json(), asset_events=events)

    return evaluate


@dataclass(slots=True)
class State:
    """The content of the sensor's cursor."""

    seen: dict[str, int] = field(default_factory=dict[str, int])
    """How many events of each rental were shown."""
    told: dict[str, str] = field(default_factory=dict[str, str])
    """How each check last ended."""
    told_at: float = 0.0

    @classmethod
    def read(cls, text: str | None) -> State:
        """Reads a cursor. One that cannot be read counts as empty: some changes are then shown again."""
        with suppress(ValueError, TypeError, AttributeError):
            held = cast("dict[str, Any]", json.loads(text or "{}"))
            seen = {str(rental): int(count) for rental, count in held.get("seen", {}).items()}
            told = {str(name): str(how) for name, how in held.get("told", {}).items()}
            return cls(seen, told, float(held.get("told_at", 0.0)))
        return cls()

    def to_json(self) -> str:
        return json.dumps({"seen": self.seen, "told": self.told, "told_at": self.told_at})


class _Watch:
    """What is known, with files that were read once and heartbeats that are not too old."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._ledgers: dict[Path, Ledger] = {}
        self._beats = _Beats()

    def look(self, instance: dg.DagsterInstance) -> watching.Known:
        home = Path(instance.root_directory)
        ledger = self._ledgers.setdefault(home, Ledger(home))
        return watching.known(ledger, home, self._beats, heartbeats.this_machine(), self._now())


class _Beats:
    """Heartbeats from the store, which may be far away: a tick waits for them for a moment only."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "heartbeats")
        self._asked = 0.0
        self._reading: Future[list[Heartbeat]] | None = None

    def __call__(self, installation: str) -> Sequence[Heartbeat]:
        old = time.monotonic() - self._asked >= BEATS_SECONDS
        if self._reading is None or (old and self._reading.done()):
            self._asked = time.monotonic()
            self._reading = self._pool.submit(heartbeats.read, store_uri(), installation)
        try:
            return self._reading.result(PATIENCE_SECONDS)
        except Late:
            raise StoreError(f"the store did not answer within {PATIENCE_SECONDS:g} s") from None


def _changes(known: watching.Known, state: State) -> Iterator[dg.AssetObservation]:
    count = 0
    for rental in known.rentals:
        seen = state.seen.get(rental.id, 0)
        if count >= MOST or seen >= len(rental.events):
            continue
        for one in shown.observations(rental, seen, known):
            count += 1
            yield one
        state.seen[rental.id] = len(rental.events)


def _evaluations(known: watching.Known, state: State) -> Iterator[dg.AssetCheckEvaluation]:
    again = bool(known.open) and known.now - state.told_at >= AGAIN_SECONDS
    for check in CHECKS:
        finding = check.evaluate(known)
        how = "passed" if finding.passed else finding.severity.value
        if again or state.told.get(check.name) != how:
            state.told[check.name], state.told_at = how, known.now
            yield shown.evaluation(check.name, finding)
