"""The sensor that evaluates each new checkpoint."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import dagster as dg

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.settings import store_uri
from aquarat_core.stages.registry import CHAIN
from aquarat_pipeline._compat import IN_PROGRESS_RUN_STATUSES
from aquarat_pipeline._compat import UnresolvedAssetJobDefinition as Job
from aquarat_pipeline.assets.review import review
from aquarat_pipeline.events import latest_materialization, manifest_of
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.runs.resuming import planned

SECONDS = 60
"""Shortest time between two ticks."""


def new_checkpoints(experiment: Experiment, reevaluation: Job) -> dg.SensorDefinition:
    """The sensor that starts the job `reevaluation` for each checkpoint without an up-to-date report."""

    @dg.sensor(  # pyright: ignore[reportUnknownMemberType]  # a generic class without its argument
        name=experiment.local("evaluate_new_checkpoints"),
        job=reevaluation,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=(
            "Evaluates each new checkpoint once, unless a run that makes its report is queued or in progress. "
            "Off until it is switched on in the UI."
        ),
    )
    def evaluate_new_checkpoints(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        look = _Look(context.instance, experiment, read_cursor(context.cursor))
        for phase in CHAIN:
            look.at(phase)
        cursor = json.dumps(look.seen, sort_keys=True)
        if look.requests:
            return dg.SensorResult(run_requests=look.requests, cursor=cursor)
        return dg.SensorResult(skip_reason=" ".join(["No new checkpoint to evaluate.", *look.waiting]), cursor=cursor)

    return evaluate_new_checkpoints


@dataclass(slots=True)
class _Look:
    """One tick: the runs to request, and the reports that wait."""

    instance: dg.DagsterInstance
    experiment: Experiment
    seen: dict[str, str]
    """Manifest of each checkpoint that is done: its report was up to date or has been requested."""
    requests: list[dg.RunRequest] = field(default_factory=list[dg.RunRequest])
    waiting: list[str] = field(default_factory=list[str])
    _under_way: set[dg.AssetKey] | None = None

    def at(self, phase: str) -> None:
        checkpoint, report = f"{phase}_checkpoint", f"{phase}_eval_report"
        made = latest_materialization(self.instance, self.experiment.key(checkpoint))
        manifest = manifest_of(made) if made else None
        if manifest is None or self.seen.get(checkpoint) == manifest:
            return
        ref = self.experiment.ref
        compared = [name for name in self.experiment.inputs(report) if name.endswith("_eval_report")]
        # A report is compared with the one of the phase before, so it waits until that one is finished.
        if busy := [ref(name) for name in (report, *compared) if self.experiment.key(name) in self._being_made()]:
            self.waiting.append(f"{ref(report)} waits for a run that makes {' and '.join(busy)}.")
            return
        found = review(self.instance, ArtifactStore.open(store_uri()), self.experiment, [report])
        if why := found.impossible.get(report):
            self.waiting.append(f"{ref(report)} {why}.")
            return
        self.seen[checkpoint] = manifest
        if report in found.outdated:
            self._request(report, manifest)

    def _request(self, report: str, manifest: str) -> None:
        key = self.experiment.key(report)
        self._being_made().add(key)
        self.requests.append(
            dg.RunRequest(
                # Dagster starts at most one run for each key, even if the cursor is lost.
                run_key=f"{self.experiment.ref(report)}@{manifest}",
                asset_selection=[key],
                tags=self.experiment.tags,
            )
        )

    def _being_made(self) -> set[dg.AssetKey]:
        if self._under_way is None:
            self._under_way = _under_way(self.instance)
        return self._under_way


def read_cursor(text: str | None) -> dict[str, str]:
    """The manifests that earlier ticks have seen.

    A cursor that cannot be read counts as empty; the run keys still prevent a second evaluation.
    """
    with suppress(ValueError):
        held: Any = json.loads(text or "{}")
        if isinstance(held, dict):
            return {str(name): str(manifest) for name, manifest in cast("dict[str, Any]", held).items()}
    return {}


def _under_way(instance: dg.DagsterInstance) -> set[dg.AssetKey]:
    """The assets that runs in the queue or in progress make."""
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED, *IN_PROGRESS_RUN_STATUSES])
    found: set[dg.AssetKey] = set()
    for run in instance.get_runs(unfinished):
        found |= run.asset_selection or {dg.AssetKey.from_user_string(x) for x in planned(instance, run.run_id)}
    return found
