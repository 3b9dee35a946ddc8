"""What people, and runs that wait, ask of the keeper: each is an order or an event in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, Literal

from aquarat_core.errors import UsageError
from aquarat_pipeline.renting import names
from aquarat_pipeline.renting.clouds.cloud import Account
from aquarat_pipeline.renting.clouds.model import Capabilities, Offer
from aquarat_pipeline.renting.config import LONGEST_HOURS
from aquarat_pipeline.renting.ledger import Conflict, Ledger
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.rental import AccountRecord, OfferRecord, Rental, RentalOrder


def new_order(
    installation: str,
    account: Account,
    offer: Offer,
    capabilities: Capabilities,
    now: float,
    hours: float,
    most_hours: float,
    max_price: Money,
    **more: Any,
) -> RentalOrder:
    """An order with a new name, whose end is `most_hours` from now. `more`: further fields. Raises `UsageError`."""
    if not 0 < hours <= most_hours <= LONGEST_HOURS:
        raise UsageError(
            f"{hours:g} h, up to {most_hours:g} h, cannot be ordered: above 0, not more than the most hours, and "
            f"{LONGEST_HOURS} h at most"
        )
    began = int(now)
    last = began + int(most_hours * 3600)
    if last - now < capabilities.not_before_seconds:
        raise UsageError(
            f"{account.name} rents for {capabilities.not_before_seconds / 3600:g} h at least: ask for more hours"
        )
    if last > names.LATEST_END:
        raise UsageError("the clock of this machine is wrong: a rental cannot end after December 2038")
    return RentalOrder(
        name=str(names.RentalName(installation, names.new_rental(), last)),
        account=AccountRecord.of(account),
        offer=OfferRecord.of(offer),
        ordered=began,
        end=min(began + hours * 3600, last),
        max_price_micros=max_price.micros,
        billing_starts=capabilities.billing_starts,
        billing_step_seconds=capabilities.billing_step_seconds,
        settle_seconds=capabilities.settle_seconds,
        not_before_seconds=capabilities.not_before_seconds,
        **more,
    )


def ask_end(ledger: Ledger, rental: Rental, how: Literal["drain", "now"], now: float) -> Rental:
    """`drain`: when the jobs on it have ended. Nothing more happens to a rental that is ending or final."""
    why = "its end was asked for"

    def end(rental: Rental) -> Rental:
        if rental.final or rental.state == "ending" or rental.end_asked in ("now", how):
            return rental
        return ledger.append(rental, rental.state, now, why, end_asked=how)

    return _again(ledger, rental, end)


def end_instance(ledger: Ledger, rental: Rental, instance_id: str, now: float) -> Rental:
    """Says which nameless instance an unclear rental is, and that it must end. Raises `UsageError`."""

    def end(rental: Rental) -> Rental:
        if rental.instance_id is not None or rental.state not in ("unclear", "absent"):
            raise UsageError(
                f"{rental.name} is {rental.state}: only an unclear rental can be told which instance it is"
            )
        return ledger.append(rental, "ending", now, "a person says that this is it", instance_id=instance_id)

    return _again(ledger, rental, end)


def extend(ledger: Ledger, rental: Rental, hours: float, now: float) -> Rental:
    """Lets it end so many hours later. Raises `UsageError` beyond the end in its name."""
    if not isfinite(hours):
        raise UsageError(f"{hours} is not a number of hours")

    def move(rental: Rental) -> Rental:
        if rental.final or rental.state in ("ending", "draining") or rental.end_asked:
            raise UsageError(f"{rental.name} is {'to end' if rental.end_asked else rental.state}: rent another")
        end = rental.end + hours * 3600
        if end > rental.order.last_end:
            left = (rental.order.last_end - rental.end) / 3600
            raise UsageError(
                f"{rental.name} can be extended by {max(left, 0):.2f} h at most, as its name says: rent with more "
                "--most-hours next time"
            )
        if end <= now:
            raise UsageError(f"that would be over already: {rental.name} can only be extended to a time to come")
        return ledger.append(rental, rental.state, now, "extended", end=end)

    return _again(ledger, rental, move)


def _again(ledger: Ledger, rental: Rental, act: Callable[[Rental], Rental]) -> Rental:
    """Acts upon the newest state, because the keeper writes too."""
    while True:
        try:
            return act(rental)
        except Conflict:
            rental = ledger.read(rental.id)
