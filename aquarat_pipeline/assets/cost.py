"""What an artifact has cost: time, machine, and money by the inventory's `price_per_hour`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Manifest
from aquarat_core.durations import duration
from aquarat_core.errors import UserError
from aquarat_pipeline.hosts.inventory import LOCAL, Host, read_inventory


def cost(manifest: Manifest, home: Path, hosts: Iterable[str]) -> str:
    """`12 min on a100-1, 8 x NVIDIA A100, $3.20 by price_per_hour`; empty if the stage's time is unknown.

    The time is that of the last attempt; restarts after a lost host are not counted.
    """
    seconds = manifest.metrics.get("seconds")
    if not isinstance(seconds, int | float):
        return ""
    names = list(hosts)
    where = ", ".join("this machine" if name == LOCAL else name for name in names)
    machine = ", ".join(filter(None, (where, machine_text(manifest.hardware))))
    price = sum(_price(home, name) for name in names) * seconds / 3600
    dollars = f", ${price:.2f} by price_per_hour" if price else ""
    return f"{duration(seconds)}{f' on {machine}' if machine else ''}{dollars}"


def machine_text(facts: Mapping[str, Any]) -> str:
    """`8 x NVIDIA A100` or `2 cores of AMD EPYC`, from the hardware in a manifest."""
    if "gpu" in facts:
        return f"{facts.get('gpus', 1)} x {facts['gpu']}"
    if "cpu" in facts:
        return f"{facts.get('cores', '?')} cores of {facts['cpu']}"
    return ""


def _price(home: Path, name: str) -> float:
    """The host's price per hour now; 0 if it is no longer in the inventory."""
    found: Host | None = None
    with suppress(UserError):
        found = read_inventory(home).get(name)
    return found.price_per_hour if found else 0.0
