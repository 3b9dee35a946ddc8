"""Offers that are not taken for a while, because a host of theirs was not as offered."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from aquarat_pipeline.renting.clouds.model import Offer
from aquarat_pipeline.renting.rental import Rental


def resting(rentals: Iterable[Rental], offer: Offer, now: float, rest_hours: float) -> str | None:
    """Why the offer should not be taken now, or None. `rest_hours` is that of rent.yaml's limits."""
    for rental in rentals:
        taken, unfit = rental.order.offer, rental.unfit
        if unfit is None or (taken.cloud, taken.id) != (offer.cloud, offer.id):
            continue
        until = unfit.at + rest_hours * 3600
        if now < until:
            why = unfit.why.removeprefix("unfit: ")
            return f"it rests until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC, after {rental.id}: {why}"
    return None
