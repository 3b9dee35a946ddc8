"""Prepaid accounts: when the balance is almost used up, what runs there is drained before the provider ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aquarat_core.durations import duration
from aquarat_pipeline.renting.clouds.cloud import Cloud
from aquarat_pipeline.renting.clouds.model import Listing
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.money import ZERO, Money
from aquarat_pipeline.renting.rental import ALIVE, Rental

CODE = "balance"
"""Of the event by which a rental is to end for this."""
LOOK_SECONDS = 60.0
"""Between two looks at a balance."""
LOW_SECONDS = 1800.0
"""Everything is drained if the balance lasts for less, over all instances of the account."""
SPARE_SECONDS = 300.0
"""Rentals end so long before the balance does."""


@dataclass(slots=True)
class _Look:
    at: float
    low: bool


class Credit:
    """Looks at balances, each once a minute, and asks rentals to end. What it remembers only says when to look."""

    def __init__(self, ledger: Ledger, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._now = now
        self._looks: dict[str, _Look] = {}

    def look(self, key: str, cloud: Cloud, listing: Listing, rentals: Sequence[Rental]) -> str | None:
        """Drains the account's rentals if two looks in a row say that the balance is low; a sentence if it is.

        Raises `CloudError`.
        """
        now = self._now()
        before = self._looks.get(key)
        if not cloud.capabilities.balance or not any(rental.state in ALIVE for rental in rentals):
            self._looks.pop(key, None)
            return None
        # A clock that was set back does not put it off.
        if before is not None and before.at <= now < before.at + LOOK_SECONDS:
            return None
        balance = cloud.balance()
        burn = _burn(listing, rentals)
        low = balance is not None and burn > ZERO and balance.micros * 3600 < burn.micros * LOW_SECONDS
        self._looks[key] = _Look(now, low)
        if not low or balance is None:
            return None
        left = max(balance.micros, 0) * 3600 / burn.micros
        why = f"the balance of {cloud.account} ({balance}) only lasts for {duration(left)} at {burn} an hour"
        if before is not None and before.low:
            for rental in rentals:
                if rental.state in ALIVE and not any(event.code == CODE for event in rental.events):
                    self._drain(rental, why, max(left - SPARE_SECONDS, 0.0))
        return f"{why}: what runs there is drained; add credit"

    def _drain(self, rental: Rental, why: str, left: float) -> None:
        """Hosts that a person uses are not drained, but end before the balance does, too."""
        end = min(rental.end, self._now() + left)
        asked = "drain" if rental.order.managed else None
        self._ledger.append(rental, rental.state, self._now(), why, code=CODE, end=end, end_asked=asked)


def _burn(listing: Listing, rentals: Sequence[Rental]) -> Money:
    """What all instances of the account cost per hour, also those of others."""
    known = {rental.instance_id: rental.hourly for rental in rentals if rental.instance_id}
    total = ZERO
    for instance in listing.instances:
        if instance.state != "ended":
            total += instance.price or known.get(instance.id, ZERO)
    return total
