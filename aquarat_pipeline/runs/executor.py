"""The executor: runs all steps of a run in one process; for a resumed run, only those that have not succeeded yet.

The heavy work is in the stages' own processes, so a process per step would only import Dagster again, which takes two
to four seconds of processor time for each of thirteen steps. But Dagster's own in-process executor starts a resumed run
from its first step: finished assets would be made again, and later ones would name the wrong parents. This executor
first reads the run's events, as Dagster's step-delegating executors do, and plans the remaining steps.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg

from aquarat_core.errors import UserError
from aquarat_pipeline import experiments
from aquarat_pipeline._compat import (
    DagsterEvent,
    DagsterExecutionInterruptedError,
    DagsterUserCodeProcessError,
    EngineEventData,
    ErrorSource,
    ExecuteRunWithPlanIterable,
    ExecutionPlan,
    InProcessExecutor,
    PlanExecutionContextManager,
    PlanOrchestrationContext,
    RetryMode,
    SerializableErrorInfo,
    StepFailureData,
    inprocess_execution_iterator,
)
from aquarat_pipeline.assets import reuse
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.assets.provenance import check_given
from aquarat_pipeline.beats import beating
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.runs import profiles, readiness
from aquarat_pipeline.runs.keeping import rest_of, without_fresh
from aquarat_pipeline.runs.lines import tell
from aquarat_pipeline.runs.origin import add_origin
from aquarat_pipeline.tags import EXPERIMENT_TAG, WORKER_TAG
from aquarat_pipeline.workers import LAUNCHED, SecondWorkerError, describe, only_worker

_EVENTS = {
    dg.DagsterEventType.STEP_OUTPUT,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_UP_FOR_RETRY,
}
_CANCELLED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
_CHECKED: dict[str, list[str]] = {}
"""Output of the checks for runs that this process has checked and will execute."""


@dg.executor(name="resuming_in_process")
def resuming_executor(_: dg.InitExecutorContext) -> ResumingExecutor:
    """Executes all steps in the run's own process; skips steps of a resumed run that its event log says are done."""
    return ResumingExecutor(retries=RetryMode.ENABLED)


def skip_checks(run_id: str, lines: list[str]) -> None:
    """Call it for a run that `create_run` has just checked in this process, which executes it next; `lines` are the
    checks' output. Any other process checks a run again, because hosts and store may have changed meanwhile."""
    _CHECKED[run_id] = lines


class ResumingExecutor(InProcessExecutor):
    """At most one process executes a run at any time, whoever starts it."""

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        instance, run_id = plan_context.instance, plan_context.run_id
        with ExitStack() as stack:
            experiment = None
            if not instance.is_ephemeral:
                me = stack.enter_context(_sole_execution(plan_context))
                with _said_without_a_trace():
                    experiment = _experiment_of(execution_plan)
                    tags = _profile_tags(instance, plan_context.dagster_run, experiment)
                instance.add_run_tags(run_id, {WORKER_TAG: me, **tags})
                stack.enter_context(beating(instance, run_id))
                add_origin(instance, plan_context.dagster_run)
            plan: ExecutionPlan | None = execution_plan
            if experiment is not None:
                with _said_without_a_trace():
                    plan = without_fresh(plan_context, plan, experiment, lambda line: _say(plan_context, line))
                if plan is None:
                    return
            if plan_context.resume_from_failure:
                plan, failures = remaining(plan_context, plan)
                yield from failures
                if plan is None:
                    return
            elif experiment is not None:
                with _said_without_a_trace():
                    _check(plan_context, plan, experiment)
            yield from _shortened(plan_context, self._execute(plan_context, plan))

    def _execute(self, context: PlanOrchestrationContext, plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        pid = os.getpid()
        data = EngineEventData.in_process(pid, plan.step_keys_to_execute)
        yield DagsterEvent.engine_event(context, f"Executing steps in process (pid: {pid})", event_specific_data=data)
        manager = PlanExecutionContextManager(
            job=context.job,
            retry_mode=context.retry_mode,
            execution_plan=plan,
            # Dagster only uses a code location's own loggers if the run's config names them.
            run_config={"loggers": {"console": {}}, **context.run_config},
            dagster_run=context.dagster_run,
            instance=context.instance,
            raise_on_error=context.raise_on_error,
            output_capture=context.output_capture,
            step_dependency_config=self.step_dependency_config,
        )
        yield from iter(ExecuteRunWithPlanIterable(plan, inprocess_execution_iterator, manager))


@contextmanager
def _sole_execution(context: PlanOrchestrationContext) -> Generator[str]:
    """Holds the run's lock, and yields the tag that describes this process. Ends the process if another holds it."""
    instance, run_id = context.instance, context.run_id
    me = describe(os.getpid(), "launcher" if os.environ.pop(LAUNCHED, None) == run_id else "shell")
    with ExitStack() as stack:
        try:
            stack.enter_context(only_worker(Path(instance.root_directory), run_id, me))
        except SecondWorkerError as e:
            instance.add_run_tags(run_id, {WORKER_TAG: e.holder})
            instance.report_engine_event(str(e), context.dagster_run)
            # If this process returned or raised in any way, Dagster would fail the run, which the other process
            # executes.
            os._exit(0)
        yield me


def _shortened(context: PlanOrchestrationContext, events: Iterator[DagsterEvent]) -> Iterator[DagsterEvent]:
    """The events from which Dagster reports the run's end, without the tracebacks that the steps' own events keep.

    A cancelled run ends here when its step has ended, not by the interrupt, for which Dagster would print a traceback.
    """
    interrupted = False
    try:
        for event in events:
            if event.is_step_failure:
                data = event.step_failure_data
                interrupted |= data.error_source == ErrorSource.INTERRUPT
                error = data.error.to_exception_message_only() if data.error else None
                short = StepFailureData(error, data.user_failure_data, ErrorSource.UNEXPECTED_ERROR)
                event = event._replace(event_specific_data=short)
            yield event
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        run = context.instance.get_run_by_id(context.run_id)
        if context.raise_on_error or not interrupted or run is None or run.status not in _CANCELLED:
            raise


def _experiment_of(plan: ExecutionPlan) -> Experiment:
    """The experiment of the plan's steps. Raises `ExperimentError` if there are several."""
    return experiments.of_run(
        (plan.get_step_by_key(key).tags or {}).get(EXPERIMENT_TAG, "") for key in plan.step_keys_to_execute
    )


def _check(context: PlanOrchestrationContext, plan: ExecutionPlan, experiment: Experiment) -> None:
    """Raises a `UserError` if not all of the run's stages can be executed. A resumed run is not checked, because its
    jobs may run on hosts that are no longer in the inventory."""

    def say(text: str) -> None:
        _say(context, text)

    if (lines := _CHECKED.pop(context.run_id, None)) is not None:
        for line in lines:
            say(line)
        return
    asked = Plan.of(plan.step_keys_to_execute, experiment, context.dagster_run.tags, context.run_config)
    readiness.check(Path(context.instance.root_directory), asked, say)
    check_given(context.instance, asked, context.job.get_definition(), say)
    for line in reuse.lines(context.instance, asked):
        say(line)


def _say(context: PlanOrchestrationContext, text: str) -> None:
    # An event for the UI. Dagster's own logger prints nothing about it here; ours does at the first step.
    DagsterEvent.engine_event(context, text, event_specific_data=EngineEventData())
    tell(text)


@contextmanager
def _said_without_a_trace() -> Generator[None]:
    """Ends the run with the message of a user's mistake; for other errors, Dagster adds pages of its own frames."""
    try:
        yield
    except UserError as e:
        info = SerializableErrorInfo(str(e), [], type(e).__name__)
        raise DagsterUserCodeProcessError(str(e), user_code_process_error_infos=[info]) from None


def _profile_tags(instance: dg.DagsterInstance, run: dg.DagsterRun, experiment: Experiment) -> dict[str, str]:
    """The tags with experiment and profile for a run that starts; for a resumed run, after checking that they match."""
    profiles.check(run.tags, experiment.profile)
    profiles.share(instance, experiment.profile)
    return {**profiles.remember(Path(instance.root_directory), experiment.profile), **experiment.tags}


def remaining(
    context: PlanOrchestrationContext, plan: ExecutionPlan
) -> tuple[ExecutionPlan | None, list[DagsterEvent]]:
    """The remainder of a run whose worker died: its plan (None if nothing remains), and the failures so far.

    A step that was interrupted, or running when the worker died, remains; its stage finds its job again. A failed step
    stays failed, and steps that depend on it are not executed.
    """
    events = [
        entry.dagster_event
        for entry in context.instance.all_logs(context.run_id, of_type=_EVENTS)
        if entry.dagster_event is not None
    ]
    retries = Counter(event.step_key for event in events if event.is_step_up_for_retry and event.step_key)
    last = {event.step_key: event for event in events if event.step_key and not event.is_successful_output}
    done = {key for key, event in last.items() if event.is_step_success}
    failures = {
        key: event
        for key, event in last.items()
        if event.is_step_failure and event.step_failure_data.error_source != ErrorSource.INTERRUPT
    }
    outputs = {event.step_output_data.step_output_handle for event in events if event.is_successful_output}
    without = done | _with_descendants(plan, set(failures))
    left = [key for key in plan.step_keys_to_execute if key not in without]
    said = f"Resuming: {len(done)} steps are done, {len(left)} are left: {', '.join(left)}"
    DagsterEvent.engine_event(context, said, event_specific_data=EngineEventData())
    if not left:
        return None, list(failures.values())
    there = {handle for handle in outputs if handle.step_key in done}
    rest = rest_of(context, plan, left, there, retries)
    return rest, list(failures.values())


def _with_descendants(plan: ExecutionPlan, steps: set[str]) -> set[str]:
    """`steps` and all steps that depend on them; steps come in topological order."""
    found = set(steps)
    dependencies = plan.get_executable_step_deps()
    for step in plan.get_steps_to_execute_in_topo_order():
        if dependencies[step.key] & found:
            found.add(step.key)
    return found
