"""The toy chain for every experiment of the Dagster home, as the project's own code location has it."""

from __future__ import annotations

from aquarat_pipeline import experiments
from tests.pipeline import toy_definitions

defs = toy_definitions.build(named=experiments.experiments()[1:])
