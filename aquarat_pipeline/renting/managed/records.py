"""A rental as a host of the inventory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aquarat_pipeline.hosts.host import RentedHost
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.managed import host_keys
from aquarat_pipeline.renting.rental import Rental

LONGEST_MARGIN = 1800.0
"""Seconds before the end of a rental in which no job begins any more; a quarter of a shorter life."""


def host_of(rental: Rental, folder: Path, fields: Mapping[str, Any]) -> RentedHost:
    """How the rental's host is reached, and what was offered. Raises `ValueError` for an address that is none."""
    order = rental.order
    user, _, rest = (rental.address or "").partition("@")
    address, _, port = rest.rpartition(":")
    return RentedHost.model_validate(
        {
            "name": name_of(rental),
            "folder": folder,
            "address": address,
            "port": int(port),
            "user": user,
            "network_address": rental.private_host,
            "site": f"{order.account.name}/{order.offer.region}",
            "gpus": order.offer.gpus,
            "gpu_kind": order.offer.gpu_model or None if order.offer.gpus else None,
            "gpu_memory_gb": order.offer.gpu_memory_gb,
            "labels": (order.pool,) if order.pool else (),
            "price_per_hour": rental.hourly.micros / 1e6,
            "max_leases": 1,
            "expires": expires(rental),
            "margin_seconds": max(min(LONGEST_MARGIN, (rental.end - order.ordered) / 4), order.phases.drain),
            **fields,
        }
    )


def name_of(rental: Rental) -> str:
    """Its name in the inventory: the pool and the rental, which `aquarat hosts rentals` shows too."""
    pool = re.sub("[^A-Za-z0-9_.-]+", "-", rental.order.pool or "").strip("-._")
    return f"{pool or 'rented'}-{rental.id}"


def expires(rental: Rental) -> float:
    """When its life is over for jobs. Of one that is being drained it is so soon that none begins."""
    if rental.state != "draining":
        return rental.end
    return min(rental.end, rental.since + rental.order.phases.drain)


def job_settings(rental: Rental, config: RentConfig, folder: Path) -> dict[str, Any]:
    """`env` and `forward` of the host's jobs, as the pool says now.

    A host whose key is known by the first look alone gets variables only if the pool's source names them itself.
    """
    pool = config.pools.get(rental.order.pool or "")
    if pool is None:
        return {}
    source = pool.source_of(rental.order.account.name, rental.order.offer.offer)
    forward = () if host_keys.was_seen(folder) else pool.forward
    if source is not None and source.forward is not None:
        forward = source.forward
    return {"env": pool.env, "forward": forward}
