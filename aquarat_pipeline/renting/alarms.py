"""What a person should know about rentals now."""

from __future__ import annotations

from collections.abc import Iterable

from aquarat_pipeline.renting import costs, credit
from aquarat_pipeline.renting.clouds.cloud import KINDS
from aquarat_pipeline.renting.rental import Rental

WARN_SECONDS = 300
ERROR_SECONDS = 900


def alarms(rentals: Iterable[Rental], now: float) -> list[str]:
    """A sentence for each rental that costs money although it should not, the most urgent first."""
    urgent: list[str] = []
    others: list[str] = []
    for rental in rentals:
        lasting = now - rental.since
        kind = KINDS[rental.order.account.cloud]
        where = f"instance {rental.instance_id} of {rental.order.account.name}"
        low = next((event for event in rental.events if event.code == credit.CODE), None)
        if low is not None and not rental.final:
            urgent.append(f"{rental.name} is drained, because {low.why}: add credit to {rental.order.account.name}")
        if rental.state == "ending" and lasting >= WARN_SECONDS:
            last = next((event for event in reversed(rental.events) if event.answer), None)
            answered = f" ({last.answer}{': ' + last.why if last.why else ''})" if last else ""
            text = (
                f"{rental.name} should have ended {lasting / 60:.0f} min ago{answered}, and costs "
                f"{rental.hourly} an hour, {costs.accrued(rental, now)} so far: the keeper goes on trying"
            )
            if lasting >= ERROR_SECONDS:
                urgent.append(f"{text}; end {where} in the dashboard of {kind.title}")
            else:
                others.append(text)
        elif rental.state == "unclear" and lasting >= 2 * rental.order.settle_seconds:
            others.append(
                f"{rental.name}: nobody knows yet whether it was made, and {rental.order.account.name} could not be "
                f"looked at for {lasting / 60:.0f} min, or lists a nameless instance like it"
            )
    return urgent + others
