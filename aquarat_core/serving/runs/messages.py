"""Reads progress messages from the chunks of output that a job's host sends. Imports nothing heavy."""

from __future__ import annotations

from typing import Any, cast


def progress_message(one: object) -> dict[str, Any] | None:
    """A stage's progress message in one of Dagster Pipes; None for other messages and what is not well formed."""
    found = object_in(object_in(object_in(one).get("params")).get("payload"))
    if found.get("aquarat") != "progress":
        return None
    done, total, metrics = whole_number(found.get("done")), whole_number(found.get("total")), found.get("metrics")
    if done is None or total is None or not isinstance(metrics, dict):
        return None
    return {"done": done, "total": total, "unit": str(found.get("unit", ""))[:40], "metrics": metrics}


def object_in(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def whole_number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
