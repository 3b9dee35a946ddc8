"""What was refused is not asked for again at once: for a minute, twice as long each time, and up to ten minutes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from aquarat_pipeline.renting.clouds.model import Offer
from aquarat_pipeline.renting.rental import Event, Rental

FIRST_SECONDS = 60.0
LONGEST_SECONDS = 600.0
FORGOTTEN_SECONDS = 3600.0
"""A refusal after so long without one counts as the first."""


def refused(rentals: Iterable[Rental], account: str, offer: Offer, now: float) -> str | None:
    """Why the offer is not asked for now, or None. A refusal rests the offer, its region or the account, as the
    provider's answer says."""
    in_a_row, last, why = 0, float("-inf"), ""
    for rental in sorted(rentals, key=lambda one: one.order.ordered):
        if rental.order.account.name != account:
            continue
        event = _refusal(rental)
        if event is None:
            if rental.instance_id is not None and rental.order.offer.id == offer.id:
                in_a_row = 0
        elif _is_about(event, rental, offer):
            in_a_row = 1 if event.at - last > FORGOTTEN_SECONDS else in_a_row + 1
            last, why = event.at, event.why
    until = last + min(FIRST_SECONDS * 2 ** min(in_a_row - 1, 10), LONGEST_SECONDS)
    # A clock that was set back does not make it wait for longer.
    if not in_a_row or not last <= now < until:
        return None
    return f"{why} (tried again from {datetime.fromtimestamp(until, UTC):%H:%M:%S} UTC on)"


def _refusal(rental: Rental) -> Event | None:
    """The event by which no instance came of the order; None if one did, or the order was only taken back."""
    if not rental.events or rental.state not in ("refused", "absent"):
        return None
    event = rental.events[-1]
    return event if event.code or rental.state == "absent" else None


def _is_about(event: Event, rental: Rental, offer: Offer) -> bool:
    match event.scope:
        case "account":
            return True
        case "region":
            return rental.order.offer.region == offer.region
        case _:
            return rental.order.offer.id == offer.id
