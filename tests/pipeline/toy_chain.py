"""A chain of toy stages: real assets, a real store and instance, real processes, no training."""

from __future__ import annotations

from typing import Any

import dagster as dg

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import load_profile
from aquarat_core.settings import store_uri
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.checks.again import check_again
from aquarat_pipeline.experiments import Experiment


class Chain:
    """Materializes assets of `toy_definitions` on one instance and says what came of it."""

    def __init__(self, instance: dg.DagsterInstance, defs: dg.Definitions) -> None:
        self.instance = instance
        self.defs = defs

    def materialize(
        self, *names: str, config: dict[str, Any] | None = None, tags: dict[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        """One run over the named assets and their checks; `config` by step."""
        run_config = {"ops": {name: {"config": value} for name, value in (config or {}).items()}}
        job = self.defs.resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey.from_user_string(name) for name in names]
        return job.execute_in_process(
            run_config=run_config, instance=self.instance, asset_selection=keys, raise_on_error=False, tags=tags
        )

    def latest(self, name: str) -> dg.AssetMaterialization:
        """The latest materialization of an asset."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey.from_user_string(name))
        assert event is not None and event.asset_materialization is not None
        return event.asset_materialization

    def check(self, name: str) -> dict[str, dg.AssetCheckEvaluation]:
        """Evaluates the checks of an asset again, as the job `verification` does."""
        found = check_again(
            self.instance, ArtifactStore.open(store_uri()), Experiment(load_profile("demo")), STAGES[name]
        )
        return {event.check_name: event for event in found}


def failure_text(result: dg.ExecuteInProcessResult, step: str) -> str:
    """The description of the `Failure` a step ended with."""
    data = next(e.step_failure_data for e in result.all_events if e.is_step_failure and e.step_key == step)
    return data.user_failure_data.description
