"""Fills the Dagster home and the store of the environment with assets of the toy chain: a program of its own, because
Dagster reads much of the environment once for a process."""

from __future__ import annotations

import json
import os
import sys

from aquarat_core.stages.registry import EVAL_REPORTS
from aquarat_pipeline.instance import open_instance
from tests.pipeline import toy_definitions
from tests.pipeline.toy_chain import Chain

SCORES = {"n": 200, "accuracy": 0.5, "accuracy_lo": 0.4, "accuracy_hi": 0.6, "constant_letter_accuracy": 0.2}


def main(names: list[str]) -> int:
    """Materializes the named assets in one run; returns 1 where one of them could not be made."""
    for report in EVAL_REPORTS:
        os.environ[f"TOY_{report.upper()}"] = json.dumps({"metrics": {**SCORES, "parse_rate": 0.9}})
    with open_instance() as instance:
        made = Chain(instance, toy_definitions.build()).materialize(*names).get_asset_materialization_events()
    return 0 if {event.asset_key.to_user_string() for event in made} == set(names) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
