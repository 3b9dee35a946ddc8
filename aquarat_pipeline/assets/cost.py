"""What an artifact has cost: time, machine, and money, of all attempts at its step in the run that made it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from aquarat_core.artifacts import Manifest
from aquarat_core.durations import duration
from aquarat_core.evaluation.chain_costs import COST, EXTRA, GPU_HOURS, HOST, HOURS, OVERHEAD
from aquarat_pipeline.assets.inputs import Pinned
from aquarat_pipeline.hosts.inventory import LOCAL
from aquarat_pipeline.jobs.spending import Spent
from aquarat_pipeline.renting.money import ZERO, Money

FACTS = (HOST, HOURS, GPU_HOURS, COST, OVERHEAD)
"""Names in the metadata of what hosts of the inventory have made."""


def cost(manifest: Manifest, spent: Spent | None) -> str:
    """`12 min on a100-1, 8 x NVIDIA A100, $3.20 by price_per_hour`; empty if the stage's time is unknown.

    Without `spent` the stage ran on the control host, and the time is that of the stage itself.
    """
    seconds = spent.seconds if spent else manifest.metrics.get("seconds")
    if not isinstance(seconds, int | float):
        return ""
    where = _names(spent.hosts if spent else (LOCAL,))
    machine = ", ".join(filter(None, (where, machine_text(manifest.hardware))))
    attempts = f" in {len(spent.uses)} attempts" if spent and len(spent.uses) > 1 else ""
    return f"{duration(seconds)}{attempts}{f' on {machine}' if machine else ''}{_money(spent)}"


def cost_facts(spent: Spent) -> dict[str, Any]:
    """The numbers behind it, as metadata."""
    facts: dict[str, Any] = {
        HOST: _names(spent.hosts),
        HOURS: round(spent.seconds / 3600, 6),
        GPU_HOURS: round(spent.gpu_hours, 6),
    }
    if spent.priced:
        facts |= {COST: dollars(spent.cost), OVERHEAD: dollars(spent.overhead)}
    return facts


def dollars(amount: Money) -> float:
    """Exact to the micro-dollar when it is rounded to six digits."""
    return amount.micros / 1_000_000


def costs_of(instance: dg.DagsterInstance, inputs: Mapping[str, Pinned]) -> dict[str, list[dict[str, Any]]]:
    """What making each of the inputs has cost, for the report on the chain; without inputs that no host made."""
    rows: list[dict[str, Any]] = []
    for name, pinned in inputs.items():
        wanted = dg.AssetRecordsFilter(pinned.key, storage_ids=[pinned.storage_id])
        records = instance.fetch_materializations(wanted, limit=1).records
        made = records[0].asset_materialization if records else None
        held = {fact: made.metadata[fact].value for fact in FACTS if fact in made.metadata} if made else {}
        if held:
            rows.append({"asset": name, **held})
    return {EXTRA: rows}


def _names(hosts: Iterable[str]) -> str:
    return ", ".join("this machine" if name == LOCAL else name for name in hosts)


def _money(spent: Spent | None) -> str:
    if spent is None or not spent.priced:
        return ""
    if not spent.rentals:
        return f", {spent.cost} by price_per_hour"
    overhead = f" and {spent.overhead} of overhead" if spent.overhead != ZERO else ""
    return f", {spent.cost}{overhead} by our own count"


def machine_text(facts: Mapping[str, Any]) -> str:
    """`8 x NVIDIA A100` or `2 cores of AMD EPYC`, from the hardware in a manifest."""
    if "gpu" in facts:
        return f"{facts.get('gpus', 1)} x {facts['gpu']}"
    if "cpu" in facts:
        return f"{facts.get('cores', '?')} cores of {facts['cpu']}"
    return ""
