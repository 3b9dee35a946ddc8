"""What a run costs on a host that is rented for it, before anything is ordered: each number with where it comes from.

The keeper's own rules decide what is taken and whether a cap forbids it now.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Manifest
from aquarat_core.durations import duration
from aquarat_core.errors import UserError
from aquarat_core.runtime.peaks import peak_of
from aquarat_core.stages.costs import Sections, cost_of
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.renting import budget
from aquarat_pipeline.renting.clouds.cloud import connect, this_machine
from aquarat_pipeline.renting.config import RentConfig, budget_micros, read_config
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.ordering.choosing import Candidate, choose, fitting, order_of_pool
from aquarat_pipeline.renting.ordering.selecting import Wish
from aquarat_pipeline.renting.rental import Rental
from aquarat_pipeline.runs.readiness import Place
from aquarat_pipeline.runs.rentable import Rentable


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long one stage takes there."""

    seconds: float | None
    """None if nothing is known."""
    basis: str
    """`measured`, `estimate`, `estimate, at most` or `unknown`."""


@dataclass(frozen=True, slots=True)
class Priced:
    """The whole of what stages cost on hosts of a pool."""

    pool: Rentable
    nodes: int
    taken: Candidate | None
    """The cheapest offer now; None if the offers could not be read, and why is in `notes`."""
    stages: Mapping[str, StageTime]
    ready_seconds: float
    """From the order to when it is ready for jobs."""
    ready_basis: str
    idle_seconds: float
    """At the end, before it is given back."""
    rentals: int
    """How many one after the other, because none outlives the pool's hours."""
    forbids: str | None
    """Which cap makes the run wait now."""
    notes: tuple[str, ...]

    @property
    def price(self) -> Money:
        """Per hour, of all hosts at once."""
        return (self.taken.offer.price if self.taken else self.pool.price) * self.nodes

    @property
    def work_seconds(self) -> float:
        """Of the stages of which something is known."""
        return sum(stage.seconds or 0.0 for stage in self.stages.values())

    @property
    def unknown(self) -> list[str]:
        return [name for name, stage in self.stages.items() if stage.seconds is None]

    @property
    def seconds(self) -> float:
        """All that is paid for."""
        return self.work_seconds + self.rentals * (self.ready_seconds + self.idle_seconds)

    @property
    def cost(self) -> Money:
        return Money(ceil(self.price.micros * self.seconds / 3600))


def of_run(home: Path, plan: Plan, places: Sequence[Place], made: Mapping[str, Manifest]) -> list[Priced]:
    """For each pool of which hosts would be rented. Asks the pool's accounts for their offers, if their keys are there.

    Raises `RentConfigError`.
    """
    rented = [place for place in places if place.pool is not None]
    if not rented:
        return []
    config, ledger, micros = read_config(home), Ledger(home), budget_micros(plan.tags)
    rentals, run_budget = ledger.load().rentals, None if micros is None else Money(micros)
    return [_priced(config, ledger, rentals, place, plan.sections, made, run_budget) for place in rented]


def machine(one: Priced) -> dict[str, Any]:
    """The same for programs; amounts are in millionths of a dollar."""
    return {
        "pool": one.pool.name,
        "offer": one.taken.offer.id if one.taken else None,
        "hosts": one.nodes,
        "hourly_micros": one.price.micros,
        "live": one.taken is not None,
        "seconds": one.seconds,
        "unknown": one.unknown,
        "cost_micros": one.cost.micros,
        "most_micros": one.pool.whole_price.micros * one.nodes * one.rentals,
        "rentals": one.rentals,
        "forbids": one.forbids,
    }


def lines(one: Priced) -> list[str]:
    """What is said of it to a person."""
    pool = one.pool
    several = f"{one.nodes} hosts, " if one.nodes > 1 else ""
    if one.taken is not None:
        offer = one.taken.offer
        where = f" in {offer.region}" if offer.region else ""
        what = f"{several}{offer.type}{where} from {one.taken.account.name} at {offer.price} an hour, the live price"
    else:
        what = f"{several}at most {pool.price} an hour, the pool's limit"
    said = [f"rented from {pool.name}: {what}", *(f"note: {note}" for note in one.notes)]
    overhead = (
        f"{duration(one.ready_seconds)} until it is ready ({one.ready_basis}) and {duration(one.idle_seconds)} idle"
    )
    times = f"{one.rentals} times {overhead}" if one.rentals > 1 else overhead
    least = f", without {', '.join(one.unknown)}, of which nothing is known" if one.unknown else ""
    work = f"{duration(one.work_seconds)} of work" if one.work_seconds else "its work"
    said.append(f"cost: {'at least ' if one.unknown else 'about '}{one.cost} for {work}, {times}{least}")
    if one.rentals > 1:
        each = f"because each ends after {pool.pool.hours:g} h"
        said.append(f"rentals: {one.rentals} one after the other, {each}; the run goes on from its last checkpoint")
    count = f"up to {pool.whole_price * one.nodes} ({pool.pool.longest:g} h at {pool.price})"
    verdict = f"it would wait: {one.forbids}" if one.forbids else "they allow it now"
    if one.taken is None:
        verdict = "whether they allow it now can only be said of an offer"
    return [*said, f"caps: a rental counts {count}; {verdict}"]


def _priced(
    config: RentConfig,
    ledger: Ledger,
    rentals: Sequence[Rental],
    place: Place,
    sections: Sections,
    made: Mapping[str, Manifest],
    run_budget: Money | None,
) -> Priced:
    pool = place.pool
    assert pool is not None
    taken, notes = _cheapest(config, pool, place)
    stages = {name: time_of(name, place, taken, sections, made) for name in place.stages}
    ready, basis = _ready_seconds(config, rentals, pool.name)
    life = pool.pool.hours * 3600 - ready - config.limits.drain_minutes * 60
    work = sum(stage.seconds or 0.0 for stage in stages.values())
    forbids = None
    if taken is not None:
        caps = config.accounts[taken.account.name]
        balance = taken.cloud.balance() if taken.cloud.capabilities.balance else None
        orders: list[Rental] = list(rentals)
        for _ in range(place.need.nodes):
            order = order_of_pool(ledger.installation(), taken, pool.name, config, time.time(), run="planned")
            forbids = budget.why_not(order, orders, time.time(), caps, pool.pool, balance, run_budget)
            if forbids:
                break
            orders.append(Rental.of(order, ()))
    return Priced(
        pool, place.need.nodes, taken, stages, ready, basis, pool.pool.idle_minutes * 60,
        max(1, ceil(work / max(life, 60.0))), forbids, tuple(notes),
    )  # fmt: skip


def _cheapest(config: RentConfig, pool: Rentable, place: Place) -> tuple[Candidate | None, list[str]]:
    """The offer that would be taken now, and why there is none, if so."""
    candidates: list[Candidate] = []
    notes: list[str] = []
    for name in dict.fromkeys(source.account for source in pool.pool.sources):
        account = config.account(name)
        try:
            cloud = connect(account, this_machine())
            candidates += [Candidate(account, cloud, offer) for offer in cloud.offers()]
        except UserError as e:
            notes.append(f"no live price: {e}")
    choice = choose(candidates, Wish(), pool.pool)
    found, others = fitting(choice.found, place.need)
    if found:
        return found[0], notes
    reasons = [*others, *choice.excluded]
    if candidates:
        notes.append(f"nothing of it can be rented now: {'; '.join(reasons[:4]) or 'no offer is one of its types'}")
    return None, notes


def time_of(
    name: str, place: Place, taken: Candidate | None, sections: Sections, made: Mapping[str, Manifest]
) -> StageTime:
    """From an earlier run on such GPUs, else computed, else from an earlier run on other hardware."""
    seconds = made[name].metrics.get("seconds") if name in made else None
    gpu = str(made[name].hardware.get("gpu", "")) if name in made else ""
    model = taken.offer.gpu_model if taken else ""
    measured = StageTime(float(seconds), "measured") if isinstance(seconds, (int, float)) else None
    if measured and (not model or model.split()[0].lower() in gpu.lower()):
        return measured
    if place.need.device != "cpu" and peak_of(model):
        from aquarat_core.stages.forecast import Gpus, seconds_of

        computed = seconds_of(name, sections, Gpus(model), place.need.ranks * place.need.nodes)
        if computed:
            # Sampling is counted as if no answer ended early.
            cost = cost_of(name, sections)
            return StageTime(computed, "estimate, at most" if cost.sampled and not cost.uncounted else "estimate")
    if measured:
        return StageTime(measured.seconds, f"measured on {gpu or 'another machine'}")
    return StageTime(None, "unknown")


def _ready_seconds(config: RentConfig, rentals: Sequence[Rental], pool: str) -> tuple[float, str]:
    """As long as the pool's last rental took, or as long as it may take."""
    for rental in reversed(rentals):
        ready = next((event.at for event in rental.events if event.state == "ready"), None)
        if ready is not None and rental.asked is not None and rental.order.pool == pool and rental.order.managed:
            return ready - rental.asked, "as last time"
    limits = config.limits
    minutes = limits.boot_minutes + limits.reach_minutes + limits.accept_minutes + limits.prepare_minutes
    return minutes * 60, f"at most, by the limits of rent.yaml; nothing of {pool} was rented before"
