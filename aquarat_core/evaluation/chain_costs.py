"""The last section of the pipeline report: what the chain has cost, by stage.

Only the control host knows it: which attempts there were, on which hosts, and what these cost. It stands on the page
and in `costs.json` beside it, but not in `report.json`: equal chains give equal reports, however long a host took.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

from aquarat_core.durations import duration
from aquarat_core.evaluation import document as doc

FILE = "costs.json"
EXTRA = "costs"
"""The name of the rows among what the control host passes to the stage."""
HOST, HOURS, GPU_HOURS = "host", "hours", "gpu_hours"
COST, OVERHEAD = "cost_usd", "cost_overhead_usd"
"""Names of a stage's values, in the metadata of its materialization and in the rows."""
_MICROS = 1_000_000


class CostRow(TypedDict):
    """What one artifact has cost to make. A value that is not known is None, for example if its host has no price."""

    asset: str
    host: str | None
    hours: float | None
    """Time on its hosts, summed over all attempts to make it."""
    gpu_hours: float | None
    cost_usd: float | None
    cost_overhead_usd: float | None


def rows_of(told: object) -> list[CostRow]:
    """The rows among what was passed; without what is not of their form."""
    held = cast("list[object]", told) if isinstance(told, list) else []
    found: list[CostRow] = []
    for one in held:
        facts: Mapping[str, object] = cast("dict[str, object]", one) if isinstance(one, dict) else {}
        if isinstance(asset := facts.get("asset"), str):
            host = facts.get(HOST)
            found.append(
                CostRow(
                    asset=asset,
                    host=host if isinstance(host, str) else None,
                    hours=_number(facts.get(HOURS)),
                    gpu_hours=_number(facts.get(GPU_HOURS)),
                    cost_usd=_number(facts.get(COST)),
                    cost_overhead_usd=_number(facts.get(OVERHEAD)),
                )
            )
    return found


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def section(rows: Sequence[CostRow]) -> list[doc.Block]:
    """The table with its sum; nothing if nothing is known of any stage."""
    if not any(row["hours"] is not None for row in rows):
        return []
    cells = [
        (
            row["asset"],
            "-" if row["hours"] is None else duration(row["hours"] * 3600),
            row["host"] or "-",
            _decimal(row["gpu_hours"]),
            _dollars(_micros(row["cost_usd"])),
            _dollars(_micros(row["cost_overhead_usd"])),
        )
        for row in rows
    ]
    hours, gpu_hours = sum(row["hours"] or 0.0 for row in rows), sum(row["gpu_hours"] or 0.0 for row in rows)
    cost = _sum([row["cost_usd"] for row in rows])
    overhead = _sum([row["cost_overhead_usd"] for row in rows])
    total = ("in all", duration(hours * 3600), "", _decimal(gpu_hours), _dollars(cost), _dollars(overhead))
    known = None if cost is None else cost + (overhead or 0)
    whole = "" if known is None else f" Together: {_dollars(known)}."
    caption = (
        "By our own count, no provider's bill. Times are of all attempts in the run that made the artifact. Overhead "
        "is what rented hosts cost while they booted, were prepared or had nothing to do; idling after a run's last "
        f"stage is not in it. Of stages without a row nothing is known: they were made earlier, or elsewhere.{whole}"
    )
    header = ("Stage", "Time", "Host", "GPU-hours", "Dollars", "Overhead")
    return [
        doc.Heading("What the chain cost"),
        doc.Table(header, (*cells, total), text_columns=(0, 2), caption=caption),
    ]


def _micros(dollars: float | None) -> int | None:
    return None if dollars is None else round(dollars * _MICROS)


def _sum(amounts: Sequence[float | None]) -> int | None:
    """In micro-dollars, so that the sum is exact."""
    known = [micros for amount in amounts if (micros := _micros(amount)) is not None]
    return sum(known) if known else None


def _dollars(micros: int | None) -> str:
    if micros is None:
        return "-"
    cents = -(-micros // 10_000)  # rounded up, so that no cost is shown as lower than it is
    return f"${cents // 100:,}.{cents % 100:02}"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
