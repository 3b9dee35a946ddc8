"""What a check is: a sentence, how serious its failure is, and a function of an artifact and its materialization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from aquarat_core.artifacts import Artifact
from aquarat_core.stages.stage import Stage
from aquarat_pipeline.experiments import Experiment

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@dataclass(frozen=True, slots=True)
class Subject:
    """A materialization that is checked, before or after Dagster has recorded it."""

    instance: dg.DagsterInstance
    experiment: Experiment
    stage: Stage
    artifact: Artifact
    made: dg.AssetMaterialization
    before: dg.AssetMaterialization | None
    """The asset's materialization before this one."""
    recorded: bool
    """Whether Dagster and the store's refs know it already."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of a check: what was found, as a sentence, and the numbers behind it."""

    passed: bool
    said: str
    facts: Mapping[str, Any]
    severity: dg.AssetCheckSeverity = ERROR


def found(passed: bool, said: str, severity: dg.AssetCheckSeverity = ERROR, **facts: Any) -> Finding:
    """A finding; facts without a value are left out."""
    return Finding(passed, said, {name: value for name, value in facts.items() if value is not None}, severity)


@dataclass(frozen=True, slots=True)
class Check:
    """A check of the artifacts of some stages."""

    name: str
    description: str
    evaluate: Callable[[Subject], Finding]
    blocking: bool = False
    """Whether nothing is made from the artifact in the same run if the check fails as an error."""
