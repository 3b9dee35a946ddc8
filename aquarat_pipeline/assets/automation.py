"""When an asset counts as old, and which assets Dagster may make by itself once its user allows that.

Nothing here starts anything until the sensor `default_automation_condition_sensor` is switched on in the UI.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg

from aquarat_core.stages.registry import EVAL_REPORTS
from aquarat_core.stages.stage import Stage

_WARN, _FAIL = timedelta(days=14), timedelta(days=60)


def freshness(stage: Stage) -> dg.FreshnessPolicy | None:
    """Reports are expected anew within 60 days; what they are made from never gets old by itself."""
    return dg.FreshnessPolicy.time_window(fail_window=_FAIL, warn_window=_WARN) if stage.kind == "report" else None


def automation(stage: Stage) -> dg.AutomationCondition[Any] | None:
    """Only assets that run no model are made by themselves: the page over the chain, when a report in it is new.

    Reports of single checkpoints run a model; `evaluate_new_checkpoints` makes them, one after the other.
    """
    if stage.distributed or stage.name in EVAL_REPORTS or stage.kind != "report":
        return None
    return dg.AutomationCondition.eager()
