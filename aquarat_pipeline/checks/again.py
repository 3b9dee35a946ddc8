"""Evaluates checks again without making anything: after a checkpoint was adopted, and in the verification of a store.

In a run that makes an asset, its checks are part of the asset's own step.
"""

from __future__ import annotations

import dagster as dg

from aquarat_core.artifacts import ArtifactError, ArtifactStore
from aquarat_core.stages.stage import Stage
from aquarat_pipeline.checks.artifacts import COMPLETE
from aquarat_pipeline.checks.check import Check, Subject
from aquarat_pipeline.checks.table import results
from aquarat_pipeline.events import manifest_of
from aquarat_pipeline.experiments import Experiment


def check_again(
    instance: dg.DagsterInstance, store: ArtifactStore, experiment: Experiment, stage: Stage
) -> list[dg.AssetCheckEvaluation]:
    """Evaluates the checks of the asset's latest materialization, and reports them to Dagster; none if it was never
    made."""
    key = experiment.key(stage.name)
    records = instance.fetch_materializations(key, limit=2).records
    events = [record.asset_materialization for record in records if record.asset_materialization]
    if not events:
        return []
    try:
        sha256 = manifest_of(events[0])
        if sha256 is None:
            raise ArtifactError("the latest materialization was reported by hand and names no manifest")
        subject = Subject(
            instance, experiment, stage, store.get(sha256), events[0], events[1] if len(events) > 1 else None, True
        )
        evaluated = [_event(key, check, result) for check, result in results(subject)]
    except ArtifactError as e:
        failed = dg.AssetCheckResult(passed=False, description=f"{e}. Materialize {key.to_user_string()} again.")
        evaluated = [_event(key, COMPLETE, failed)]
    for event in evaluated:
        instance.report_runless_asset_event(event)
    return evaluated


def _event(key: dg.AssetKey, check: Check, result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=check.name,
        passed=bool(result.passed),
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
        blocking=check.blocking,
    )
