"""What rentals cost, to the micro-dollar, by our own count: no provider sends bills that could be read here.

The count never is too low by itself: it begins when the instance may have begun to run, ends when it was proved to have
ended, and takes the highest price that the provider named. A rental whose outcome is unclear costs nothing yet, but
budgets count it. If an order made several instances, all of them are counted from the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from aquarat_pipeline.renting.money import ZERO, Money, bill
from aquarat_pipeline.renting.rental import Rental

OVERHEAD = "overhead"
"""Booting, preparing and idling of a rental that was not rented for a run, in `split`."""


def begin(rental: Rental) -> float | None:
    """When billing may have begun; None if no instance is known."""
    if rental.instance_id is None:
        return None
    if rental.order.billing_starts == "running" and rental.began is not None:
        return rental.began
    return rental.order.ordered if rental.asked is None else rental.asked


def accrued(rental: Rental, until: float) -> Money:
    """What the rental has cost from its beginning to that time."""
    total = ZERO
    for end in (rental.ended, *rental.doubles.values()):
        total += _of_one(rental, end, until)
    return total


def _of_one(rental: Rental, ended: float | None, until: float) -> Money:
    """What one of its instances has cost."""
    start = begin(rental)
    if start is None:
        return ZERO
    end = until if ended is None else min(until, ended)
    return bill(rental.hourly, end - start, rental.order.billing_step_seconds)


def _last(rental: Rental, until: float) -> float:
    """When the last of its instances had ended, or `until` if that is later or not known."""
    ends = [rental.ended, *rental.doubles.values()]
    return min(until, max(until if end is None else end for end in ends))


def between(rental: Rental, start: float, until: float) -> Money:
    """What was added from one time to the other. A begun billing step counts where it begins."""
    return accrued(rental, until) - accrued(rental, start)


def by_day(rental: Rental, since: float, until: float) -> list[tuple[str, Money]]:
    """What was added in each day (UTC), as (`2026-11-30`, amount); the sum is `between`."""
    start = begin(rental)
    if start is None:
        return []
    parts: list[tuple[str, Money]] = []
    at = since = max(since, start)
    end = _last(rental, until)
    while at < end:
        day = datetime.fromtimestamp(at, UTC)
        following = (day.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)).timestamp()
        parts.append((f"{day:%Y-%m-%d}", between(rental, at, min(following, end))))
        at = following
    return parts


def committed(rental: Rental, now: float) -> Money:
    """What the rental may still add before the end in its name. Counts everything that may exist, at the highest price
    that its order allows until its own is known."""
    if rental.final:
        return ZERO
    price = rental.price or max(Money(rental.order.max_price_micros), rental.hourly)
    step = rental.order.billing_step_seconds
    longest = max(rental.order.last_end, now)
    start = begin(rental)
    if start is None:
        return bill(price, longest - now, step)
    total = ZERO
    for end in (rental.ended, *rental.doubles.values()):
        if end is None:
            total += max(bill(price, longest - start, step) - _of_one(rental, end, now), ZERO)
    return total


def split(rental: Rental, until: float) -> Mapping[str, Money]:
    """The cost by run, and what belongs to none: `sum` of it is `accrued`, to the micro-dollar.

    A second belongs to the runs that use GPUs of it then, by their GPUs. Others belong to the run that it was rented
    for, or else are `OVERHEAD`.
    """
    total = accrued(rental, until).micros
    start = begin(rental)
    if not total or start is None:
        return {}
    end = _last(rental, until)
    nobody = rental.order.run or OVERHEAD
    weights: dict[str, Fraction] = {}
    marks = [(event.at, event.runs) for event in rental.events if event.runs is not None]
    current: Mapping[str, int] = {}
    last = start
    for at, runs in [*marks, (end, {})]:
        _add(weights, current, max(0.0, min(at, end) - last), nobody)
        last = max(last, min(at, end))
        current = runs
    whole = sum(weights.values(), Fraction(0)) or Fraction(1)
    shares: dict[str, Money] = {}
    given, counted = 0, Fraction(0)
    for name, weight in sorted(weights.items()):
        counted += weight
        upto = int(total * counted / whole)
        shares[name] = Money(upto - given)
        given = upto
    return shares


def _add(weights: dict[str, Fraction], runs: Mapping[str, int], seconds: float, nobody: str) -> None:
    if not seconds:
        return
    used = {run: max(gpus, 1) for run, gpus in runs.items()} or {nobody: 1}
    whole = sum(used.values())
    for run, gpus in used.items():
        weights[run] = weights.get(run, Fraction(0)) + Fraction(seconds) * gpus / whole


@dataclass(frozen=True, slots=True)
class Taken:
    """GPUs of a rental that were taken for something, named by `key`."""

    key: str
    began: float
    ended: float
    gpus: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rental's cost, of the time up to `ended`."""

    key: str | None
    """What it was taken for; None for a time when it was taken for nothing."""
    ended: float
    amount: Money


def pieces(rental: Rental, taken: Iterable[Taken], until: float, marks: Iterable[float] = ()) -> list[Piece]:
    """The cost up to that time in parts whose sum is `accrued`, to the micro-dollar.

    Those who share a time share its cost by their GPUs. No piece reaches across a mark. What was counted up to a time
    stays the same when more time passes.
    """
    start = begin(rental)
    if start is None:
        return []
    end = until if rental.ended is None else min(until, rental.ended)
    taken = sorted(taken, key=lambda one: one.key)
    times = {start, end, *marks, *(at for one in taken for at in (one.began, one.ended))}
    bounds = sorted(at for at in times if start <= at <= end)
    found: list[Piece] = []
    for last, at in pairwise(bounds):
        amount = between(rental, last, at)
        here = [one for one in taken if one.began <= last and one.ended >= at]
        found += _shared(here, at, amount) if here else [Piece(None, at, amount)]
    return found


def _shared(taken: Sequence[Taken], at: float, amount: Money) -> list[Piece]:
    whole = sum(max(one.gpus, 1) for one in taken)
    found: list[Piece] = []
    given = counted = 0
    for one in taken:
        counted += max(one.gpus, 1)
        upto = amount.micros * counted // whole
        found.append(Piece(one.key, at, Money(upto - given)))
        given = upto
    return found
