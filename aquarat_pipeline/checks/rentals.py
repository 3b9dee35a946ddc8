"""Checks of what is rented: each a function of what the control host knows without asking a cloud.

A check fails as an error where money runs away now, and warns where it could.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aquarat_core.durations import duration
from aquarat_pipeline.checks.check import ERROR, WARN, Finding, found
from aquarat_pipeline.renting import budget, costs
from aquarat_pipeline.renting.alarms import ERROR_SECONDS, WARN_SECONDS, alarms
from aquarat_pipeline.renting.config import FILE
from aquarat_pipeline.renting.money import ZERO, Money
from aquarat_pipeline.renting.rental import ALIVE, Rental
from aquarat_pipeline.renting.watching import Known

LATE_SECONDS = 300.0
"""A keeper that is at work begins to end a rental sooner after its time."""


@dataclass(frozen=True, slots=True)
class RentalCheck:
    """A check of all rentals together."""

    name: str
    description: str
    evaluate: Callable[[Known], Finding]


def _terminations(known: Known) -> Finding:
    ending = [rental for rental in known.rentals if rental.state == "ending"]
    slow = [rental for rental in ending if known.now - rental.since >= WARN_SECONDS]
    said = [
        *known.problems,
        *alarms([one for one in known.rentals if not one.final and one.state not in ALIVE], known.now),
    ]
    facts: dict[str, Any] = {
        "ending": len(ending),
        "cost_of_what_should_have_ended_usd": _dollars(_after(slow, known.now)),
    }
    if not said:
        now = f"{len(ending)} being ended" if ending else "nothing is to end now"
        return found(True, f"Whatever was ended is proved to be gone; {now}.", **facts)
    late = any(known.now - rental.since >= ERROR_SECONDS for rental in slow)
    return found(False, _sentences(said), ERROR if late or known.problems else WARN, **facts)


def _after(rentals: Iterable[Rental], now: float) -> Money:
    return _sum(costs.between(rental, rental.since, now) for rental in rentals)


def _limits(known: Known) -> Finding:
    over, doubtful = list(_over(known)), list(_too_many(known))
    if known.open and not known.kept:
        doubtful.append("no keeper is at work, so nothing ends them from here: `aquarat hosts rentals` starts one")
    if known.broken:
        doubtful.append(f"nothing new can be rented: {known.broken}")
    facts: dict[str, Any] = {"open": len(known.open), "gpus": sum(rental.order.offer.gpus for rental in known.open)}
    if over or doubtful:
        return found(False, _sentences([*over, *doubtful]), ERROR if over else WARN, **facts)
    return found(True, f"{_rentals(len(known.open))} open, within their times, prices and numbers.", **facts)


def _over(known: Known) -> Iterator[str]:
    for rental in known.open:
        late = known.now - rental.end
        if rental.state in ALIVE and late >= LATE_SECONDS:
            yield f"{rental.name} should have begun to end {duration(late)} ago, and costs {rental.hourly} an hour"
        highest = Money(rental.order.max_price_micros)
        if rental.state in ALIVE and rental.price is not None and rental.price > highest:
            yield f"{rental.name} costs {rental.price} an hour, and {highest} are allowed"


def _too_many(known: Known) -> Iterator[str]:
    """What rent.yaml would not allow again. It may have been changed since."""
    for name, caps in known.config.accounts.items():
        mine = [rental for rental in known.open if rental.order.account.name == name]
        gpus = sum(rental.order.offer.gpus for rental in mine)
        if len(mine) > caps.max_rentals:
            yield f"{FILE} allows {caps.max_rentals} rentals of {name}, and {len(mine)} are open"
        if caps.max_gpus is not None and gpus > caps.max_gpus:
            yield f"{FILE} allows {caps.max_gpus} GPUs of {name}, and {gpus} are rented"
    for name, pool in known.config.pools.items():
        mine = [rental for rental in known.open if rental.order.pool == name]
        if pool.max_rentals is not None and len(mine) > pool.max_rentals:
            yield f"{FILE} allows {pool.max_rentals} rentals of the pool {name}, and {len(mine)} are open"


def _second_reaper(known: Known) -> Finding:
    if known.unprotected:
        return found(False, _sentences([known.unprotected]), WARN)
    return found(True, "Another machine ends what is overdue, or nothing is rented and nothing may be by itself.")


def _budget(known: Known) -> Finding:
    over, near, facts = list[str](), list[str](), dict[str, Any]()
    for what, cap, held in _positions(known):
        name = re.sub(r"\W+", "_", what.partition(" ")[2])
        facts[f"{name}_spent_usd"] = _dollars(held.spent)
        facts[f"{name}_promised_usd"] = _dollars(held.promised)
        if cap is None:
            continue
        if held.spent > cap:
            over.append(f"{held.spent} are spent {what}, and {cap} are allowed")
        elif held.total > cap:
            near.append(
                f"{held.spent} are spent {what} and {held.promised} promised, which together are more than {cap}"
            )
    near += alarms([rental for rental in known.open if rental.state in ALIVE], known.now)
    if over or near:
        return found(False, _sentences([*over, *near]), ERROR if over else WARN, **facts)
    spent = _sum(costs.between(rental, budget.month(known.now), known.now) for rental in known.rentals)
    return found(True, f"No limit is passed; {spent} are spent this month, by our own count.", **facts)


def _positions(known: Known) -> Iterator[tuple[str, Money | None, budget.Position]]:
    """What was spent and promised, of each account by day and month, and for each run that has a budget."""
    names = {rental.order.account.name for rental in known.rentals}
    for name in sorted(names):
        mine = [rental for rental in known.rentals if rental.order.account.name == name]
        caps = known.config.accounts.get(name)
        for period, since, cap in (
            ("today", budget.day(known.now), caps and caps.per_day),
            ("this month", budget.month(known.now), caps and caps.per_month),
        ):
            yield f"on {name} {period}", cap, budget.position(mine, since, known.now)
    runs = {rental.order.run for rental in known.open if rental.order.run and rental.order.run_budget_micros}
    for run in sorted(filter(None, runs)):
        mine = [rental for rental in known.rentals if rental.order.run == run]
        cap = Money(max(rental.order.run_budget_micros or 0 for rental in mine))
        yield f"for run {run[:8]}", cap, budget.position(mine, 0.0, known.now)


def _sentences(said: Iterable[str]) -> str:
    return " ".join(f"{text[:1].upper()}{text[1:]}." for text in said)


def _rentals(count: int) -> str:
    return "Nothing is" if count == 0 else "1 rental is" if count == 1 else f"{count} rentals are"


def _sum(amounts: Iterable[Money]) -> Money:
    return sum(amounts, ZERO)


def _dollars(amount: Money) -> float:
    return amount.micros / 1_000_000


CHECKS = (
    RentalCheck(
        "terminations_proven",
        "What was to end is proved to be gone within 5 minutes (a warning), or 15 (an error).",
        _terminations,
    ),
    RentalCheck(
        "rentals_within_limits",
        "No rental outlives its time, costs more than was allowed, or is one too many for rent.yaml.",
        _limits,
    ),
    RentalCheck(
        "second_reaper_alive",
        "While something is rented, or may be by itself, a reaper on another machine was seen within 30 minutes.",
        _second_reaper,
    ),
    RentalCheck("budget", "What was spent, and what is promised, stays within the limits of rent.yaml.", _budget),
)
