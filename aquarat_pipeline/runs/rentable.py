"""Whether hosts for a job could be rented, judged by rent.yaml alone: no cloud is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aquarat_core.durations import duration
from aquarat_core.errors import UserError
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.renting.config import FILE, Pool, RentConfig, read_config, total_price
from aquarat_pipeline.renting.managed.acceptance import why_not_here
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.ordering.selecting import nearest


class NotRentableError(UserError):
    """A pool that can never serve the run; the message says why and what to change."""


@dataclass(frozen=True, slots=True)
class Rentable:
    """A pool of rent.yaml that may serve a job."""

    name: str
    pool: Pool
    wait_seconds: float
    """From when a step waits to when a host is ordered for it, if the pool is automatic."""
    known: bool
    """Whether its hosts surely have enough GPUs. Otherwise that is only seen in the live offers."""

    @property
    def price(self) -> Money:
        """The most that one host costs per hour."""
        return self.pool.max_price_per_hour

    @property
    def whole_price(self) -> Money:
        """The most that one rental costs, which caps and budgets count before it is ordered."""
        return total_price(self.pool.max_price_per_hour, self.pool.longest)

    def __str__(self) -> str:
        how = (
            f"rented when a stage has waited for {duration(self.wait_seconds)}"
            if self.pool.automatic
            else f"as soon as a person has rented it: aquarat hosts rent --pool {self.name}"
        )
        unknown = "" if self.known else "; how many GPUs it has is seen then: aquarat hosts offers"
        return f"the pool {self.name} of {FILE} (at most {self.price} an hour, {how}{unknown})"


def rentable(home: Path, need: Requirement, budget: Money | None) -> Rentable | None:
    """The pool that the job asks for; None if it asks for none, or for a label that rent.yaml does not have.

    Raises `RentConfigError`, and `NotRentableError` if the pool could never serve the job.
    """
    if need.pool is None or need.host is not None:
        return None
    config = read_config(home)
    pool = config.pools.get(need.pool)
    if pool is None:
        return None
    if why := why_not_here():
        raise NotRentableError(f"{need} is needed, but no rented host of the pool {need.pool} could be prepared: {why}")
    gpus = [source.gpus for source in pool.sources]
    needs = 0 if need.device == "cpu" else need.ranks
    most = max((count for count in gpus if count), default=0)
    if needs and None not in gpus and most < needs:
        raise NotRentableError(
            f"{need} is needed, but the pool {need.pool} of {FILE} rents hosts of {most} GPUs at most: choose another "
            "pool, change the `gpus` of its sources, or lower launch.nproc of these stages"
        )
    if limit := _too_many(config, pool, need, needs):
        raise NotRentableError(f"{need} is needed, but {FILE} never allows so many at a time: raise {limit}")
    found = Rentable(need.pool, pool, config.limits.wait_minutes * 60, not needs or None not in gpus)
    if budget is not None and found.whole_price * need.nodes > budget:
        raise NotRentableError(_too_little(found, need.nodes, budget))
    return found


def _too_many(config: RentConfig, pool: Pool, need: Requirement, gpus: int) -> str | None:
    """The caps of rent.yaml that never allow as many hosts as the job needs at a time, if so."""
    if pool.max_rentals is not None and pool.max_rentals < need.nodes:
        return f"pools.{need.pool}.max_rentals"
    names = dict.fromkeys(source.account for source in pool.sources)
    accounts = [config.accounts[name] for name in names]
    if any(
        one.max_rentals >= need.nodes and (one.max_gpus is None or one.max_gpus >= gpus * need.nodes)
        for one in accounts
    ):
        return None
    return f"max_rentals or max_gpus of {', '.join(f'accounts.{name}' for name in names)}"


def _too_little(found: Rentable, nodes: int, budget: Money) -> str:
    hosts = f"{nodes} hosts of" if nodes > 1 else "a host of"
    return (
        f"a budget of {budget} is never enough for {hosts} the pool {found.name}: {found.pool.longest:g} h at up to "
        f"{found.price} an hour may cost {found.whole_price * nodes}. Raise the budget, or lower hours, most_hours or "
        f"max_price_per_hour of the pool in {FILE}"
    )


def pools_beside(home: Path, need: Requirement, labels: Iterable[str]) -> str:
    """How a sentence about a label that no host has goes on. Raises `RentConfigError`."""
    pools = list(read_config(home).pools)
    if need.host is not None:
        return ""
    if not pools:
        return f" To have one rented, write a pool {need.pool} into {FILE} (docs/renting.md)." if need.pool else ""
    if need.pool is not None:
        return f" {FILE} has no pool {need.pool!r}{nearest(need.pool, [*pools, *labels])}."
    return f" Name a pool of {FILE} to have a host rented: --pool {' or '.join(pools)}."
