"""The stage runner with a stage that fails: `FAILS` names the kind of `tests.failures` for each rank, or `wait`."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from typing import Any

from aquarat_core.stages import run as runner
from aquarat_core.stages.base import StageContext
from aquarat_core.stages.registry import STAGES
from tests.failures import KINDS


def run(ctx: StageContext) -> dict[str, Any]:
    """Fails as this rank is told to."""
    kind = os.environ["FAILS"].split(",")[ctx.rank]
    if kind == "wait":
        time.sleep(60)
    KINDS[kind][0]()
    raise AssertionError("unreachable")


if __name__ == "__main__":
    STAGES["aqua_dataset"] = replace(STAGES["aqua_dataset"], entry="tests.stages.failing:run")
    sys.exit(runner.main(sys.argv[1]))
