"""The stages of a run, known before the first one starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aquarat_core.settings import store_uri
from aquarat_core.stages.costs import Sections
from aquarat_core.stages.registry import STAGES, Stage
from aquarat_pipeline.assets.config import run_config_of
from aquarat_pipeline.experiments import Experiment


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages that a run will execute, and the settings that decide what they need."""

    experiment: Experiment
    stages: tuple[Stage, ...]
    sections: Sections
    """Sections of all stages of the chain, with the run's overrides."""
    tags: Mapping[str, str]
    store: str

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        experiment: Experiment,
        tags: Mapping[str, str],
        run_config: Mapping[str, Any] | None = None,
    ) -> Plan:
        """The plan of the steps with those names that are stages. Raises `ConfigError` for invalid overrides."""
        config, wanted = run_config or {}, set(names)
        ops: dict[str, dict[str, Any]] = experiment.ops(config)
        sections = {
            stage.name: run_config_of(stage, experiment.profile, (ops.get(stage.name) or {}).get("config"), ops)
            for stage in STAGES.values()
        }
        chosen = config.get("resources", {}).get("store", {}).get("config", {}).get("uri")
        stages = tuple(stage for stage in STAGES.values() if experiment.step(stage.name) in wanted)
        return cls(experiment, stages, sections, tags, chosen if isinstance(chosen, str) else store_uri())
