"""Jobs, and the schedule of one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import load_profile, profile_names
from aquarat_core.settings import store_uri
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline._compat import UnresolvedAssetJobDefinition as Job
from aquarat_pipeline.assets.review import review, sentences
from aquarat_pipeline.assets.skipped import skipped_tag
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.tags import KEEP_FRESH_TAG, PROFILE_HASH_TAG, PROFILE_TAG


def pipeline(experiment: Experiment) -> Job:
    """The job that makes all assets of an experiment."""
    return _job(experiment, "pipeline", experiment.stages, "The whole chain, from data to report.")


def by_profile(experiment: Experiment) -> Job:
    """The same job with a preset for each built-in profile in its launchpad."""
    description = (
        "The whole chain under a built-in profile. In the launchpad, choose the profile as the partition: that fills "
        "in all of its values. The run replaces the latest assets of this chain, whatever profile made them."
    )
    return _job(experiment, "pipeline_by_profile", experiment.stages, description, config=_presets(experiment))


def _presets(experiment: Experiment) -> dg.PartitionedConfig[Any]:
    """The values of every built-in profile; Dagster's launchpad only offers a choice of values by partition.

    The tags make the run one of that profile: its worker loads it, and artifacts are recorded under its name.
    """

    def values(name: str) -> dict[str, Any]:
        profile = load_profile(name)
        sections = {stage: STAGES[stage].config(profile) for stage in experiment.stages}
        filled = {stage: section for stage, section in sections.items() if section is not None}
        return {"ops": {experiment.step(s): {"config": x.model_dump(mode="json")} for s, x in filled.items()}}

    def tags(name: str) -> dict[str, str]:
        return {PROFILE_TAG: name, PROFILE_HASH_TAG: load_profile(name).sha256, **experiment.tags}

    return dg.PartitionedConfig(
        partitions_def=dg.StaticPartitionsDefinition(profile_names()),
        run_config_for_partition_key_fn=values,
        tags_for_partition_key_fn=tags,
    )


def reevaluation(experiment: Experiment) -> Job:
    """The job that makes the outdated reports of an experiment. The executor skips the others, and writes the reasons
    to the run's log and tags."""
    description = "Makes the reports that are not up to date; trains nothing. To make one anyway, materialize it."
    return _job(experiment, "reevaluation", _reports(), description, {KEEP_FRESH_TAG: "true"})


def weekly(experiment: Experiment, reevaluation: Job) -> dg.ScheduleDefinition:
    """The schedule that starts the job `reevaluation` if there are outdated reports."""

    @dg.schedule(  # pyright: ignore[reportUnknownMemberType]  # a generic class without its argument
        name=experiment.local("weekly_reevaluation"),
        job=reevaluation,
        cron_schedule="0 5 * * 1",
        execution_timezone="UTC",
        description="Mondays at 05:00 UTC, if a report is out of date. Off until it is switched on in the UI.",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def evaluate_again(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        found = review(context.instance, ArtifactStore.open(store_uri()), experiment, _reports())
        if not found.outdated:
            return dg.SkipReason(f"Nothing to evaluate: {sentences(experiment, found.skipped)}")
        context.log.info("To be made: %s", sentences(experiment, found.outdated))
        return dg.RunRequest(
            asset_selection=[experiment.key(name) for name in found.outdated],
            tags={**experiment.tags, **skipped_tag({experiment.ref(name): why for name, why in found.skipped.items()})},
        )

    return evaluate_again


def _reports() -> list[str]:
    return [stage.name for stage in STAGES.values() if stage.kind == "report"]


def _job(
    experiment: Experiment,
    name: str,
    assets: Iterable[str],
    description: str,
    tags: Mapping[str, str] | None = None,
    config: dg.PartitionedConfig[Any] | None = None,
) -> Job:
    selection = dg.AssetSelection.assets(*(experiment.key(asset) for asset in assets))
    # One of its parameters is a generic class without its argument.
    return dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]
        experiment.local(name), selection, description=description, tags=tags, config=config
    )
