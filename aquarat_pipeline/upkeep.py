"""Jobs that look after the store, and their weekly schedules: verification, and what a cleaning would remove.

Neither changes the store. The checks of assets are part of the assets' own steps; verification evaluates them again.
"""

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg
from rich.filesize import decimal

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.checks.again import check_again
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.resources.store import StoreResource

RETENTION_DAYS = 90
"""As `aquarat store gc` by default."""
_SHOWN = 20


def upkeep(experiments: Sequence[Experiment]) -> dg.Definitions:
    """The jobs `verification` and `cleaning_preview`, each with a schedule that is off."""
    verification, preview = _verification(experiments), _preview()
    return dg.Definitions(
        jobs=[verification, preview],
        schedules=[
            _weekly(verification, "0 3 * * 0", "Sundays at 03:00 UTC. Reads the whole store if it is a folder."),
            _weekly(preview, "0 4 * * 0", "Sundays at 04:00 UTC. Removes nothing."),
        ],
    )


def _weekly(job: dg.JobDefinition, cron: str, when: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"weekly_{job.name}",
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        description=f"{when} Off until it is switched on in the UI.",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )


def _verification(experiments: Sequence[Experiment]) -> dg.JobDefinition:
    @dg.op(
        description="Compares everything in the store with its hashes, and every artifact with its ancestors.",
        config_schema={
            "read": dg.Field(
                dg.Noneable(bool),
                default_value=None,
                is_required=False,
                description="Read and hash every byte (true), or only compare sizes and checksums (false). By default, "
                "every byte is read if the store is a folder; reading a bucket costs money.",
            )
        },
    )
    def verify_store(context: dg.OpExecutionContext, store: StoreResource) -> None:
        opened = store.open()
        config: Any = context.op_config
        _verify(context, opened, config["read"])

    @dg.op(
        description="Evaluates all checks of the latest artifacts again; their results are on the assets' pages.",
        ins={"before": dg.In(dg.Nothing)},
    )
    def evaluate_checks(context: dg.OpExecutionContext, store: StoreResource) -> None:
        _check(context, store.open(), experiments)

    @dg.job(  # pyright: ignore[reportUnknownMemberType]  # a generic class without its argument
        description="Verifies the store and evaluates all checks again; makes and changes nothing."
    )
    def verification() -> None:
        evaluate_checks(before=verify_store())

    return verification


def _preview() -> dg.JobDefinition:
    @dg.op(
        description="Lists what `aquarat store gc --delete` would remove; removes nothing.",
        config_schema={
            "retention_days": dg.Field(
                int,
                default_value=RETENTION_DAYS,
                is_required=False,
                description="Days for which everything that Dagster materialized is kept; at least 0.",
            )
        },
    )
    def list_garbage(context: dg.OpExecutionContext, store: StoreResource) -> None:
        config: Any = context.op_config
        _list_garbage(context, store.open(), config["retention_days"])

    @dg.job(  # pyright: ignore[reportUnknownMemberType]  # a generic class without its argument
        description="Says what a cleaning of the store would remove, and removes nothing."
    )
    def cleaning_preview() -> None:
        list_garbage()

    return cleaning_preview


def _verify(context: dg.OpExecutionContext, store: ArtifactStore, read: bool | None) -> None:
    """Raises `dg.Failure` with the problems."""
    # Few of Dagster's processes need it.
    from aquarat_core.maintenance.verify import verify

    found = verify(store, read=store.uri.startswith("file://") if read is None else read)
    said = f"{found.artifacts:,} artifacts, {found.files:,} files, {decimal(found.bytes)} in {store.uri}"
    for problem in found.problems[:_SHOWN]:
        context.log.error(problem)
    if found.problems:
        raise dg.Failure(
            f"{len(found.problems)} problems in {said}. The first: {found.problems[0]}",
            metadata={"problems": dg.MetadataValue.json(list(found.problems[:_SHOWN]))},
            allow_retries=False,
        )
    context.log.info(f"The store is sound: {said}; {decimal(found.bytes_read)} were read.")


def _check(context: dg.OpExecutionContext, store: ArtifactStore, experiments: Sequence[Experiment]) -> None:
    """Raises `dg.Failure` if a check fails as an error."""
    failed: list[str] = []
    count = warned = 0
    for experiment in experiments:
        for name in experiment.stages:
            for result in check_again(context.instance, store, experiment, STAGES[name]):
                count += 1
                if result.passed:
                    continue
                said = f"{result.check_name} of {experiment.ref(name)}: {result.description}"
                if result.severity == dg.AssetCheckSeverity.ERROR:
                    failed.append(said)
                    context.log.error(said)
                else:
                    warned += 1
                    context.log.warning(said)
    if failed:
        raise dg.Failure(f"{len(failed)} of {count} checks failed. The first: {failed[0]}", allow_retries=False)
    context.log.info(f"{count} checks were evaluated: {warned} warn, none fails.")


def _list_garbage(context: dg.OpExecutionContext, store: ArtifactStore, days: int) -> None:
    from aquarat_core.maintenance.collect import find_garbage
    from aquarat_pipeline.assets.retention import needed_manifests

    if days < 0:
        raise dg.Failure(f"retention_days is {days}: it must be at least 0", allow_retries=False)
    garbage = find_garbage(store, needed_manifests(context.instance, time.time() - days * 86_400))
    kinds = [f"{kind}/: {n:,} objects, {decimal(size)}" for kind, (n, size) in garbage.by_kind().items()]
    for line in (*kinds, *(f"Kept with all that it refers to: {problem}" for problem in garbage.problems)):
        context.log.info(line)
    context.add_output_metadata(
        {
            "removable bytes": garbage.bytes,
            "removable objects": len(garbage.objects),
            "kept artifacts": garbage.kept,
            "first objects": dg.MetadataValue.json([stat.key for stat in garbage.objects[:_SHOWN]]),
        }
    )
    context.log.info(
        f"`aquarat store gc --delete` would remove {len(garbage.objects):,} objects, {decimal(garbage.bytes)}, and "
        f"keep {garbage.kept:,} artifacts."
    )
