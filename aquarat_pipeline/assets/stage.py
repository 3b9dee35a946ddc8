"""The factory of the asset graph: a Dagster asset that runs one stage and records the result."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import dagster as dg
from pydantic import BaseModel

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion, git_state
from aquarat_core.errors import UserError
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.registry import STAGES
from aquarat_core.stages.stage import Stage
from aquarat_pipeline._compat import CODE_VERSION_TAG
from aquarat_pipeline.assets.about import About
from aquarat_pipeline.assets.automation import automation, freshness
from aquarat_pipeline.assets.config import config_schema, run_config_of
from aquarat_pipeline.assets.cost import cost, cost_facts, costs_of
from aquarat_pipeline.assets.history import ahead
from aquarat_pipeline.assets.inputs import Pinned, pin_inputs, require_lasting_instance
from aquarat_pipeline.assets.metadata import artifact_metadata
from aquarat_pipeline.assets.needed import needed_inputs
from aquarat_pipeline.assets.provenance import check_inputs, say_what_is_replaced, takes_any
from aquarat_pipeline.assets.publishing import overtaken_by, sole_publisher
from aquarat_pipeline.assets.recording import recorded_inputs
from aquarat_pipeline.checks.check import Subject
from aquarat_pipeline.checks.table import check_specs, results
from aquarat_pipeline.events import latest_materialization
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.jobs.attempts import Attempt
from aquarat_pipeline.jobs.client import TorchrunPipesClient
from aquarat_pipeline.jobs.progress import Ahead
from aquarat_pipeline.jobs.spending import spent_by_step
from aquarat_pipeline.resources.store import StoreResource
from aquarat_pipeline.tags import RANKS_TAG

OWNERS = ["team:aquarat"]
REPORT = "pipeline_report"
"""The stage that is told what its inputs have cost."""


def stage_assets(experiment: Experiment, names: Iterable[str] | None = None) -> list[dg.AssetsDefinition]:
    """The assets of an experiment, for `names` or for all stages that its profile uses."""
    about = About(experiment.profile)
    return [stage_asset(experiment, name, about) for name in (experiment.stages if names is None else names)]


def stage_asset(experiment: Experiment, name: str, about: About | None = None) -> dg.AssetsDefinition:
    """The asset of stage `name` in an experiment, configured by its profile and the run's overrides."""
    about = about or About(experiment.profile)
    stage, profile = STAGES[name], experiment.profile
    section = stage.config(profile)
    need = Requirement.of(stage, section.model_dump(mode="json") if section else None, tags={})
    ranks = {RANKS_TAG: str(need.ranks)} if need.distributed else {}

    @dg.asset(
        key=experiment.key(name),
        description=about.description(stage),
        group_name=experiment.local(stage.group),
        metadata=about.metadata(stage),
        kinds=about.kinds(stage),
        tags=about.tags(stage),
        owners=OWNERS,
        check_specs=check_specs(experiment, stage),
        freshness_policy=freshness(stage),
        automation_condition=automation(stage),
        deps=[experiment.key(name) for name in stage.needs(section)],
        code_version=code_version(stage, section),
        config_schema=config_schema(section) if section else None,
        dagster_type=cast(dg.DagsterType, dg.Nothing),
        op_tags={**ranks, **experiment.tags},
    )
    def asset(
        context: dg.AssetExecutionContext, store: StoreResource, torchrun: dg.ResourceParam[TorchrunPipesClient]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        try:
            require_lasting_instance(context.instance)
            opened = store.open()
            opened.check_writable()
            attempt = Attempt.find(context.instance, opened, context.run.run_id, name, context.retry_number)
            attempt = attempt or _new_attempt(context, stage, experiment, opened)
        except UserError as e:
            raise dg.Failure(str(e), allow_retries=False) from None
        place = ahead(context, name, experiment)
        yield from _materialize(context, stage, experiment, attempt, opened, torchrun, place)

    return asset


def _new_attempt(
    context: dg.AssetExecutionContext, stage: Stage, experiment: Experiment, store: ArtifactStore
) -> Attempt:
    section = _section(context, stage, experiment)
    # The inputs of the run's first attempt, so that a retry of the step starts from the same ones.
    needed = needed_inputs(context.instance, experiment, stage, section)
    inputs = pin_inputs(context.instance, stage, needed, context.run.run_id, experiment)
    others = [pinned.parent for pinned in inputs.values() if pinned.parent.run_id != context.run.run_id]
    check_inputs(store, experiment, stage.name, others, takes_any(context.run.tags), context.log.warning)
    say_what_is_replaced(context, store, experiment, stage.name)
    spec = _spec(context, stage, section, experiment, store, inputs)
    events = {name: pinned.storage_id for name, pinned in inputs.items()}
    return Attempt.create(context.instance, store, spec, context.retry_number, events)


def _section(context: dg.AssetExecutionContext, stage: Stage, experiment: Experiment) -> BaseModel | None:
    ops = experiment.ops(context.run.run_config)
    return run_config_of(stage, experiment.profile, context.op_execution_context.op_config, ops)


def _spec(
    context: dg.AssetExecutionContext,
    stage: Stage,
    section: BaseModel | None,
    experiment: Experiment,
    store: ArtifactStore,
    inputs: dict[str, Pinned],
) -> StageSpec:
    commit, dirty = git_state(REPO_ROOT)
    return StageSpec(
        stage=stage.name,
        store=store.uri,
        profile=experiment.profile.name,
        profile_sha256=experiment.profile.sha256,
        config=section.model_dump(mode="json") if section else None,
        inputs={name: pinned.parent for name, pinned in inputs.items()},
        code=CodeVersion(version=code_version(stage, section), commit=commit, dirty=dirty),
        run_id=context.run.run_id,
        step_key=stage.name,
    )


def _differing(artifact: Artifact, stage: Stage, spec: StageSpec) -> str | None:
    """The field of the manifest that differs from this run's decisions, if any. It must be checked because every host
    can write to the job's folder, which names the manifest."""
    held = artifact.manifest
    decided = {
        "asset": stage.name, "kind": stage.kind, "run_id": spec.run_id, "profile": spec.profile,
        "profile_sha256": spec.profile_sha256, "code": spec.code, "config": spec.config or {},
    }  # fmt: skip
    if {p.asset: p for p in held.parents} != spec.inputs:
        return "list of parents"
    return next((name for name, value in decided.items() if getattr(held, name) != value), None)


def _materialize(
    context: dg.AssetExecutionContext,
    stage: Stage,
    experiment: Experiment,
    attempt: Attempt,
    store: ArtifactStore,
    torchrun: TorchrunPipesClient,
    place: Ahead | None,
) -> Iterator[dg.MaterializeResult[Any]]:
    spec = attempt.spec
    inputs = {name: Pinned(parent, attempt.events[name], experiment.key(name)) for name, parent in spec.inputs.items()}
    # Allows filtering runs by the checkpoint that they started from.
    parents = {name: p.parent.data_version for name, p in inputs.items() if STAGES[name].kind == "checkpoint"}
    if parents:
        context.instance.add_run_tags(spec.run_id, {f"aquarat/input/{name}": v for name, v in parents.items()})
    extras = costs_of(context.instance, inputs) if stage.name == REPORT else None
    result = torchrun.run(context=context, stage=stage, attempt=attempt, store=store, ahead=place, extras=extras).result
    artifact = store.get(result["manifest_sha256"])
    if lies := _differing(artifact, stage, spec):
        raise dg.Failure(
            f"{stage.name}: result.json in {attempt.folder.uri} names manifest {artifact.sha256}, whose {lies} is not "
            "what this run decided: it was written by someone else, and nothing is materialized. Find out who can "
            "write there",
            allow_retries=False,
        )
    # With overrides, the code version differs from the definition's, so Dagster rightly shows the asset as stale.
    read, left_out = recorded_inputs(context.instance, experiment, stage, inputs)
    tags = {CODE_VERSION_TAG: spec.code.version, **read}
    home = Path(context.instance.root_directory)
    spent = spent_by_step(context.instance, spec.run_id, time.time()).get(spec.step_key) if stage.distributed else None
    metadata = artifact_metadata(artifact, inputs.values(), cost(artifact.manifest, spent)) | left_out
    metadata |= cost_facts(spent) if spent else {}
    made = dg.AssetMaterialization(experiment.key(stage.name), metadata=metadata, tags=tags)
    before = latest_materialization(context.instance, experiment.key(stage.name))
    subject = Subject(context.instance, experiment, stage, artifact, made, before, recorded=False)
    checked = [result for _, result in results(subject)]
    # Dagster and the store's refs must agree on the latest, so the lock is held until Dagster has recorded the result.
    with sole_publisher(home, experiment.step(stage.name)):
        _refuse_if_overtaken(context, artifact, experiment.ref(stage.name))
        store.make_latest(artifact, experiment.ref(stage.name))
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(artifact.data_version),
            metadata=metadata,
            tags=tags,
            check_results=checked,
        )


def _refuse_if_overtaken(context: dg.AssetExecutionContext, artifact: Artifact, name: str) -> None:
    """Raises `dg.Failure` in a resumed run if a newer one has made the asset meanwhile."""
    run_id = context.run.run_id
    if not context.instance.count_resume_run_attempts(run_id):
        return
    if newer := overtaken_by(context.instance, run_id, [name]):
        raise dg.Failure(
            f"{name}: {newer}, so this older, resumed run does not replace its result. This run made manifest "
            f"{artifact.sha256}; keep it with `aquarat store pin {artifact.sha256[:12]}`. To make it the latest, "
            f"run it again: aquarat launch {name}",
            allow_retries=False,
        )
