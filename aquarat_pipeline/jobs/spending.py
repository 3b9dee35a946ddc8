"""What the steps of a run have cost, by our own count and to the micro-dollar: all attempts, on own and rented hosts.

A rented host costs from its order until it is gone. Its time belongs to the step that used it then; boot, preparation
and idling of a host that was rented for a run are overhead of the run's next step. An own host costs its
`price_per_hour` while a step uses it. Idling after a run's last step belongs to no step: `aquarat hosts cost` has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from aquarat_pipeline.jobs.usage import Use, steps_with_uses, uses
from aquarat_pipeline.renting import costs
from aquarat_pipeline.renting.costs import Taken
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.money import ZERO, Money, bill
from aquarat_pipeline.renting.rental import Rental
from aquarat_pipeline.tags import COST_TAG, RENTAL_TAG

_KEY = "/"
"""Between a run's id and a step's name."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one step has used and cost so far."""

    uses: tuple[Use, ...]
    now: float
    """The end of what is counted, for an attempt that still runs."""
    own: Money = ZERO
    rented: Money = ZERO
    overhead: Money = ZERO
    """Boot, preparation and idling of hosts that were rented for the run, since its step before."""

    @property
    def cost(self) -> Money:
        """Without overhead."""
        return self.own + self.rented

    @property
    def seconds(self) -> float:
        """All attempts together."""
        return sum(_end(use, self.now) - use.began for use in self.uses)

    @property
    def gpu_hours(self) -> float:
        seconds = sum((_end(use, self.now) - use.began) * host.gpus for use in self.uses for host in use.hosts)
        return seconds / 3600

    @property
    def hosts(self) -> tuple[str, ...]:
        """Each once, in the order in which they were used."""
        return tuple(dict.fromkeys(host.host for use in self.uses for host in use.hosts))

    @property
    def rentals(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(host.rental for use in self.uses for host in use.hosts if host.rental))

    @property
    def priced(self) -> bool:
        """Whether the price of any of its hosts is known. Nothing is not the same as for free."""
        return any(host.rental or host.price_micros for use in self.uses for host in use.hosts)


def spent_by_step(instance: dg.DagsterInstance, run_id: str, now: float) -> dict[str, Spent]:
    """What each step of the run has used and cost, the first one first; steps that used no host are left out."""
    run = instance.get_run_by_id(run_id)
    if run is None:
        return {}
    known = {step: found for step in steps_with_uses(run.tags) if (found := uses(run.tags, step))}
    ends = {step: _end(found[-1], now) for step, found in known.items()}
    order = sorted(known, key=lambda step: (ends[step], step))
    used = {host.rental for found in known.values() for use in found for host in use.hosts}
    everything = Ledger(Path(instance.root_directory)).load().rentals
    rentals = {one.id: one for one in everything if one.id in used or one.order.run == run_id}
    rented = dict.fromkeys(order, ZERO)
    overhead = dict.fromkeys(order, ZERO)
    for rental in rentals.values() if order else ():
        for piece in costs.pieces(rental, _taken(instance, rental, run, now), ends[order[-1]], ends.values()):
            if piece.key is None:
                if rental.order.run == run_id:
                    following = next(step for step in order if ends[step] >= piece.ended)
                    overhead[following] += piece.amount
            elif piece.key.startswith(run_id + _KEY):
                rented[piece.key.removeprefix(run_id + _KEY)] += piece.amount
    return {
        step: Spent(known[step], now, _own(known[step], rentals, now), rented[step], overhead[step]) for step in order
    }


def _taken(instance: dg.DagsterInstance, rental: Rental, run: dg.DagsterRun, now: float) -> list[Taken]:
    """Who used the rental: steps of this run, and of the others that the keeper saw there."""
    others = {name for event in rental.events for name in event.runs or {}} | {rental.order.run or ""}
    found = [run, *filter(None, (instance.get_run_by_id(name) for name in sorted(others - {run.run_id, ""})))]
    return [
        Taken(f"{one.run_id}{_KEY}{step}", use.began, _end(use, now), host.gpus)
        for one in found
        for step in steps_with_uses(one.tags)
        for use in uses(one.tags, step)
        for host in use.hosts
        if host.rental == rental.id
    ]


def _own(known: Iterable[Use], rentals: Mapping[str, Rental], now: float) -> Money:
    """What hosts cost that are not in the ledger, second by second."""
    total = ZERO
    for use in known:
        for host in use.hosts:
            if host.rental not in rentals:
                total += bill(Money(host.price_micros), _end(use, now) - use.began, 1)
    return total


def _end(use: Use, now: float) -> float:
    return max(use.began, now if use.ended is None else use.ended)


def tag_run(instance: dg.DagsterInstance, run_id: str, now: float) -> None:
    """Writes into the run's tags what it has cost and which rentals it has used."""
    spent = spent_by_step(instance, run_id, now)
    rentals = sorted({rental for one in spent.values() for rental in one.rentals})
    tags = {RENTAL_TAG: ",".join(rentals)} if rentals else {}
    if any(one.priced for one in spent.values()):
        total = sum((one.cost + one.overhead for one in spent.values()), ZERO)
        tags[COST_TAG] = f"{total.micros / 1_000_000:.6f}"
    if tags:
        instance.add_run_tags(run_id, tags)
