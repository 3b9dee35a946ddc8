"""The rentals that a waiting step may count on: ready and free, or on their way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aquarat_pipeline.hosts.host import Host, RentedHost
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.renting.clouds.model import Offer
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.ordering.notices import Notice
from aquarat_pipeline.renting.rental import Rental

PHASES = {
    "intended": "ordered",
    "asking": "asking for it",
    "unclear": "it is not known yet whether the order was taken",
    "granted": "booting",
    "booting": "booting",
    "reachable": "being examined",
    "fit": "being prepared",
}
"""What is said of a rental on its way, by its state."""


@dataclass(frozen=True, slots=True)
class Supply:
    """A rental that no step of those before uses, and the host that it is or will be."""

    rental: Rental
    host: Host

    @property
    def site(self) -> tuple[str, str]:
        """Account and region. Hosts of one site reach each other."""
        return self.rental.order.account.name, self.rental.order.offer.region


def supplies(rentals: Iterable[Rental], hosts: Iterable[Host], now: float) -> list[Supply]:
    """What is free or on its way, those that are ready first, and the cheaper of these.

    Hosts that people own are not among them: whether one is free shows when a step tries it.
    """
    listed = {host.rental: host for host in hosts if isinstance(host, RentedHost)}
    found: list[Supply] = []
    for rental in rentals:
        order = rental.order
        if not order.managed or rental.end_asked or now >= rental.end - order.phases.drain:
            continue
        if rental.state == "ready":
            host = listed.get(rental.id)
            if host is not None and not rental.runs and not host.why_no_job(now):
                found.append(Supply(rental, host))
        elif rental.state in PHASES:
            found.append(Supply(rental, host_of(order.offer.offer, order.pool)))
    return sorted(found, key=lambda one: (one.rental.state != "ready", one.rental.hourly, one.rental.order.ordered))


def host_of(offer: Offer, pool: str | None) -> Host:
    """What a host of that offer will have, as far as it decides which jobs it can run."""
    return Host(name="rented", address="rented", gpus=offer.gpus, labels=(pool,) if pool else ())


def serving(need: Requirement, free: Sequence[Supply]) -> list[Supply]:
    """Which of these the job would get: as many as it needs, all at one site; fewer if there are not enough."""
    fitting = [one for one in free if need.fits(one.host)]
    if need.nodes == 1:
        return fitting[:1]
    # One that is ready has a private address by now, or will never have one.
    fitting = [one for one in fitting if one.rental.state != "ready" or one.host.network_address]
    sites: dict[tuple[str, str], list[Supply]] = {}
    for one in fitting:
        sites.setdefault(one.site, []).append(one)
    largest: list[Supply] = max(sites.values(), key=len, default=list[Supply]())
    return largest[: need.nodes]


def on_its_way(rental: Rental, now: float, notes: Iterable[str]) -> Notice | None:
    """What is said of a rental to the step that it is for; None if it is ready. `notes`: what the keeper says."""
    if rental.state == "ready":
        return None
    offer = rental.order.offer
    price = f"{rental.price}" if rental.price else f"at most {Money(rental.order.max_price_micros)}"
    phase = PHASES[rental.state]
    if rental.state == "intended":
        # Why an order is not sent has been noted in this turn.
        own = (note.removeprefix(rental.name).strip() for note in notes if note.startswith(rental.name))
        phase = next(own, phase)
    since = rental.asked if rental.state in ("granted", "booting") and rental.asked else rental.since
    where = f" in {offer.region}" if offer.region else ""
    return Notice(f"renting {offer.type}{where} for {price} an hour; {phase}", max(min(since, now), 0.0))
