"""Runs of the re-evaluation job skip assets that are up to date or cannot be made, no matter who starts them.

The decision is made when the run starts: if two runs are queued for the same report, the second makes nothing. A tag
keeps the decision. A resumed run skips the same assets again, and not those that it has made itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import dagster as dg

from aquarat_core.artifacts import ArtifactStore
from aquarat_pipeline._compat import (
    ExecutionPlan,
    KnownExecutionState,
    PlanOrchestrationContext,
    StepOutputHandle,
    create_execution_plan,
)
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.assets.review import review, sentences
from aquarat_pipeline.assets.skipped import skipped_of, skipped_tag
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.tags import KEEP_FRESH_TAG


def without_fresh(
    context: PlanOrchestrationContext, plan: ExecutionPlan, experiment: Experiment, say: Callable[[str], None]
) -> ExecutionPlan | None:
    """The plan without the assets that a run with `KEEP_FRESH_TAG` skips; None if nothing is left.

    Passes the reasons to `say`, one line for each asset.
    """
    run = context.instance.get_run_by_id(context.run_id) or context.dagster_run
    if run.tags.get(KEEP_FRESH_TAG) != "true":
        return plan
    before = skipped_of(run)
    asked = Plan.of(plan.step_keys_to_execute, experiment, run.tags, context.run_config)
    names = [stage.name for stage in asked.stages]
    if context.resume_from_failure:
        skipped = {name: before[experiment.ref(name)] for name in names if experiment.ref(name) in before}
    else:
        found = review(context.instance, ArtifactStore.open(asked.store), experiment, names, asked.sections)
        skipped = found.skipped
        _tell(context, {**before, **{experiment.ref(name): why for name, why in skipped.items()}}, say)
        if found.outdated:
            say(f"To be made: {sentences(experiment, found.outdated)}")
    if not skipped:
        return plan
    left_out = _steps_of(plan, {experiment.key(name) for name in skipped})
    left = [key for key in plan.step_keys_to_execute if key not in left_out]
    outputs = {StepOutputHandle(key, o.name) for key in left_out for o in plan.get_step_by_key(key).step_outputs}
    return rest_of(context, plan, left, outputs) if left else None


def rest_of(
    context: PlanOrchestrationContext,
    plan: ExecutionPlan,
    left: list[str],
    there: set[StepOutputHandle],
    retries: Mapping[str, int] | None = None,
) -> ExecutionPlan:
    """The plan of the steps `left`.

    `there` are outputs of other steps that exist already, `retries` the number of retries of each step so far.
    """
    known = plan.known_state
    state = KnownExecutionState(
        previous_retry_attempts=dict(retries or known.previous_retry_attempts),
        step_output_versions=known.step_output_versions,
        ready_outputs=known.ready_outputs | there,
        parent_state=known.parent_state,
    )
    return create_execution_plan(
        context.job,
        run_config=context.run_config,
        step_keys_to_execute=left,
        known_state=state,
        instance_ref=context.instance.get_ref(),
        repository_load_data=plan.repository_load_data,
    )


def _tell(context: PlanOrchestrationContext, skipped: dict[str, str], say: Callable[[str], None]) -> None:
    for ref, why in skipped.items():
        say(f"Skipped: {ref} {why}")
    if skipped:
        context.instance.add_run_tags(context.run_id, skipped_tag(skipped))


def _steps_of(plan: ExecutionPlan, assets: set[dg.AssetKey]) -> set[str]:
    """The steps that make or check those assets."""
    found: set[str] = set()
    for key in plan.step_keys_to_execute:
        for output in (output.properties for output in plan.get_step_by_key(key).step_outputs):
            asset = output.asset_check_key.asset_key if output.asset_check_key else output.asset_key
            if asset in assets:
                found.add(key)
    return found
