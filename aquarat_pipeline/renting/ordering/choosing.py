"""Which offer is taken for an order: the cheapest that is wanted, within its limits, and not at rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.renting.clouds.cloud import Account, Cloud
from aquarat_pipeline.renting.clouds.model import Offer
from aquarat_pipeline.renting.config import Pool, RentConfig
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.ordering.selecting import Wish, check_names, nearest, why_not
from aquarat_pipeline.renting.ordering.supply import host_of
from aquarat_pipeline.renting.rental import RentalOrder
from aquarat_pipeline.renting.requests import new_order


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer, and whose it is."""

    account: Account
    cloud: Cloud
    offer: Offer
    image: str | None = None
    """As the pool's source asks for it."""


@dataclass(frozen=True, slots=True)
class Choice:
    found: tuple[Candidate, ...]
    """The cheapest first."""
    excluded: tuple[str, ...]
    """A sentence for each other offer of the pool."""


Rests = Callable[[Candidate], str | None]
"""Why an offer is not tried now, or None."""


def choose(
    candidates: Iterable[Candidate], wish: Wish, pool: Pool | None = None, rests: Rests = lambda _: None
) -> Choice:
    """What of `candidates` may be ordered. Offers that the pool does not take are left out without a word.

    Raises `UsageError`, with the nearest name, for a type, region or model that no cloud has.
    """
    candidates = list(candidates)
    check_names([one.offer for one in candidates], wish)
    found: list[Candidate] = []
    excluded: list[str] = []
    for one in candidates:
        source = pool.source_of(one.account.name, one.offer) if pool else None
        if pool and source is None:
            continue
        if why := why_not(one.offer, wish) or _too_dear(one.offer, pool) or rests(one):
            excluded.append(f"{one.offer.id}: {why}")
        else:
            found.append(Candidate(one.account, one.cloud, one.offer, source.image if source else None))
    found.sort(key=lambda one: (one.offer.price, one.offer.id))
    return Choice(tuple(found), tuple(excluded))


def nothing_taken(pool: Pool | None, candidates: Iterable[Candidate]) -> str | None:
    """Which types of the pool no account has, with the nearest name; None if that is not what is wrong."""
    known = [one.offer.type for one in candidates]
    patterns = [type_ for source in pool.sources for type_ in source.types] if pool else []
    unknown = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in known)]
    if not unknown or not known:
        return None
    return f"no account of the pool has a type {unknown[0]!r}{nearest(unknown[0].strip('*'), known)}"


def fitting(found: Sequence[Candidate], need: Requirement) -> tuple[list[Candidate], list[str]]:
    """Offers of hosts that can run the job; and why others cannot.

    A job that takes what a host has gets one with GPUs, if the pool has any.
    """
    with_gpus = [one for one in found if one.offer.gpus]
    wide = with_gpus if need.device == "auto" and with_gpus else found
    fitting = [one for one in wide if need.fits(host_of(one.offer, need.pool))]
    reasons = [f"{one.offer.id}: {one.offer.gpus} GPUs" for one in found if one not in fitting]
    return fitting, reasons


def why_not_of(pool: Pool, account: str, offer: Offer) -> str | None:
    """Why the pool does not take the account's offer, or None if it does."""
    if pool.source_of(account, offer) is None:
        return "no source of the pool takes it"
    return _too_dear(offer, pool)


def _too_dear(offer: Offer, pool: Pool | None) -> str | None:
    if pool is None:
        return None
    if offer.price > pool.max_price_per_hour:
        return f"above {pool.max_price_per_hour} an hour (max_price_per_hour): it costs {offer.price}"
    limit = pool.max_gpu_price
    if limit and offer.gpus and offer.price > limit * offer.gpus:
        return f"above {limit} per GPU-hour"
    return None


def order_of_pool(
    installation: str, chosen: Candidate, name: str, config: RentConfig, now: float, **more: Any
) -> RentalOrder:
    """An order of a host that is prepared for jobs, with all limits of the pool. `more`: further fields.

    Raises `RentConfigError` and `UsageError`.
    """
    pool = config.pool(name)
    highest: Money = more.pop("max_price", pool.max_price_per_hour)
    return new_order(
        installation, chosen.account, chosen.offer, chosen.cloud.capabilities, now, pool.hours, pool.longest, highest,
        pool=name, image=chosen.image, phases=config.limits.phases(pool.idle_minutes), managed=True, **more,
    )  # fmt: skip
