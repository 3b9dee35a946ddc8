"""May this be rented? Caps of accounts, pools and runs against what is spent and promised.

Promised is what every rental that may exist can still cost up to the end in its name, also those whose outcome nobody
knows. A cap that is reached is no failure: the answer is a sentence that says until when to wait, or what to change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from aquarat_pipeline.renting import costs
from aquarat_pipeline.renting.config import FILE, AccountSettings, Pool
from aquarat_pipeline.renting.money import ZERO, Money, bill, doubtful
from aquarat_pipeline.renting.rental import Rental, RentalOrder


@dataclass(frozen=True, slots=True)
class Position:
    """Money of an account, or of a run."""

    spent: Money
    promised: Money

    @property
    def total(self) -> Money:
        return self.spent + self.promised


def position(rentals: Iterable[Rental], since: float, now: float) -> Position:
    """What the rentals have cost since that time, and what they may still cost."""
    spent, promised = ZERO, ZERO
    for rental in rentals:
        spent += costs.between(rental, since, now)
        promised += costs.committed(rental, now)
    return Position(spent, promised)


def day(now: float) -> float:
    """Its beginning, in UTC."""
    return datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def month(now: float) -> float:
    """Its beginning, in UTC."""
    return datetime.fromtimestamp(day(now), UTC).replace(day=1).timestamp()


def price_of(order: RentalOrder, now: float) -> Money:
    """What the order costs at most, at its highest price up to the end in its name."""
    price = max(Money(order.offer.price_micros), Money(order.max_price_micros))
    return bill(price, order.last_end - now, order.billing_step_seconds)


def why_not(
    order: RentalOrder,
    others: Sequence[Rental],
    now: float,
    caps: AccountSettings,
    pool: Pool | None = None,
    balance: Money | None = None,
    run_budget: Money | None = None,
) -> str | None:
    """Why the order may not be asked for now, or None if it may.

    `others`: every rental but this one. `balance`: what is left of prepaid credit.
    """
    if why := why_not_price(order, pool):
        return why
    account = order.account.name
    # Also by the names that rent.yaml had for the account before.
    mine = [
        rental
        for rental in others
        if rental.order.account.name == account or rental.order.account.place == order.account.place
    ]
    open_now = [rental for rental in mine if not rental.final]
    if len(open_now) >= caps.max_rentals:
        return f"{FILE} allows {caps.max_rentals} rentals of {account} at a time, and {len(open_now)} are open"
    gpus = sum(rental.order.offer.gpus for rental in open_now) + order.offer.gpus
    if caps.max_gpus is not None and gpus > caps.max_gpus:
        return f"{FILE} allows {caps.max_gpus} GPUs of {account} at a time, and this would make {gpus}"
    of_pool = [rental for rental in others if order.pool and rental.order.pool == order.pool and not rental.final]
    if pool is not None and pool.max_rentals is not None and len(of_pool) >= pool.max_rentals:
        return f"{FILE} allows {pool.max_rentals} rentals of the pool {order.pool}, and {len(of_pool)} are open"
    price = price_of(order, now)
    for cap, since, period, free in (
        (caps.per_day, day(now), "a day", "00:00 UTC"),
        (caps.per_month, month(now), "a month", "the first of next month, 00:00 UTC"),
    ):
        held = position(mine, since, now)
        if cap is not None and held.total + price > cap:
            return _over(cap, f"{period} from {account}", held, price, f"the next chance is {free}, or raise it")
    budget = run_budget or (pool.per_run if pool and order.run else None)
    if budget is not None and order.run:
        held = position((rental for rental in others if rental.order.run == order.run), 0.0, now)
        if held.total + price > budget:
            return _over(budget, f"for run {order.run}", held, price, "raise its budget to go on")
    if balance is not None:
        promised = position(mine, now, now).promised
        if promised + price > balance:
            return (
                f"{account} has a balance of {balance}, of which {promised} are promised, and this needs up to "
                f"{price}: add credit, or rent for fewer hours"
            )
    return None


def why_not_price(order: RentalOrder, pool: Pool | None = None) -> str | None:
    """Whether the offer's price is over its limits, or cannot be right."""
    offer = order.offer
    price, highest = Money(offer.price_micros), Money(order.max_price_micros)
    if price > highest:
        return f"{offer.id} costs {price} an hour, and {highest} are allowed"
    if why := doubtful(price, offer.gpus):
        return f"{offer.id}: {why}"
    limit = pool.max_gpu_price if pool else None
    if limit and offer.gpus and price > limit * offer.gpus:
        return f"{offer.id} costs {price} an hour for {offer.gpus} GPUs, and {limit} per GPU-hour are allowed"
    return None


def _over(cap: Money, what: str, held: Position, price: Money, way_out: str) -> str:
    return (
        f"{cap} {what} are allowed, {held.spent} are spent and {held.promised} promised, and this needs up to {price}: "
        f"{way_out}"
    )
