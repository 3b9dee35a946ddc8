"""Re-evaluation makes the reports that are not up to date, and says why it leaves out the others."""

from __future__ import annotations

import json
from collections.abc import Callable

import dagster as dg
import pytest

from aquarat_core.config import load_profile
from aquarat_core.stages.registry import CHECKPOINTS, EVAL_REPORTS
from aquarat_pipeline._compat import DagsterEvent
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.runs import submit
from aquarat_pipeline.tags import EXPERIMENT_TAG, KEEP_FRESH_TAG, SKIPPED_TAG
from tests.pipeline import toy_definitions
from tests.pipeline.toy_chain import Chain

pytestmark = pytest.mark.slow

SCORES = {"n": 200, "accuracy": 0.5, "accuracy_lo": 0.4, "accuracy_hi": 0.6, "constant_letter_accuracy": 0.2}
DATA = ("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer", "pretrain_tokens")
REPORTS = (*EVAL_REPORTS, "pipeline_report")


@pytest.fixture(autouse=True)
def good_reports(order: Callable[..., None]) -> None:
    for name in EVAL_REPORTS:
        order(name, metrics={**SCORES, "parse_rate": 0.9})


@pytest.fixture
def job(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dg.DagsterRun]:
    """Executes the re-evaluation job on the project's own executor, and gives the run as it then is."""
    monkeypatch.setenv("DAGSTER_MODULE_NAME", toy_definitions.__name__)
    # The module's own were made before the store of this test was chosen.
    monkeypatch.setattr(toy_definitions, "defs", chain.defs)

    def execute(name: str = "reevaluation", **how) -> dg.DagsterRun:
        found = submit.definitions().get_reconstructable_job(name)
        result = dg.execute_job(found, chain.instance, **how)
        run = chain.instance.get_run_by_id(result.run_id)
        assert run is not None
        return run

    return execute


def made(chain: Chain, run: dg.DagsterRun) -> list[str]:
    events = chain.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return [e.dagster_event.asset_key.to_user_string() for e in events]


def checked(chain: Chain, run: dg.DagsterRun) -> set[str]:
    events = chain.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    return {e.dagster_event.asset_check_evaluation_data.asset_key.to_user_string() for e in events}


def said(chain: Chain, run: dg.DagsterRun) -> list[str]:
    events = [e.dagster_event for e in chain.instance.all_logs(run.run_id)]
    return [e.message for e in events if e and e.is_engine_event and e.message.startswith(("Skipped", "To be made"))]


def tick(chain: Chain, name: str = "weekly_reevaluation") -> dg.RunRequest | str:
    """What the schedule decides now: a request, or why there is none."""
    schedule = chain.defs.get_repository_def().get_schedule_def(name)
    data = schedule.evaluate_tick(dg.build_schedule_context(chain.instance))
    if data.skip_message:
        return data.skip_message
    (request,) = data.run_requests
    return request


def selected(request: dg.RunRequest | str) -> set[str]:
    assert isinstance(request, dg.RunRequest)
    return {key.to_user_string() for key in request.asset_selection}


def test_only_what_is_outdated_is_evaluated(chain: Chain, job, order: Callable[..., None]) -> None:
    assert chain.materialize(*DATA, *CHECKPOINTS).success
    first = job()
    assert first.status == dg.DagsterRunStatus.SUCCESS and made(chain, first) == list(REPORTS)
    assert SKIPPED_TAG not in first.tags and first.tags[KEEP_FRESH_TAG] == "true"

    nothing = job()
    assert nothing.status == dg.DagsterRunStatus.SUCCESS
    assert made(chain, nothing) == [] and checked(chain, nothing) == set()
    assert set(json.loads(nothing.tags[SKIPPED_TAG])) == set(REPORTS)
    assert said(chain, nothing)[0] == "Skipped: base_eval_report is fresh, made just now"

    order("sft_checkpoint", content="other weights")
    assert chain.materialize("sft_checkpoint").success
    again = job()
    assert again.status == dg.DagsterRunStatus.SUCCESS
    assert made(chain, again) == ["sft_eval_report", "rl_eval_report", "pipeline_report"]
    assert checked(chain, again) == {"sft_eval_report", "rl_eval_report", "pipeline_report"}
    assert set(json.loads(again.tags[SKIPPED_TAG])) == {"base_eval_report", "mid_eval_report"}
    assert said(chain, again)[-1] == (
        "To be made: sft_eval_report was made from another sft_checkpoint; rl_eval_report is made from "
        "sft_eval_report, which will be made again; pipeline_report is made from sft_eval_report and rl_eval_report, "
        "which will be made again"
    )
    assert chain.materialize("base_eval_report").success, "a report that is asked for by name is made anyway"


def test_a_resumed_run_leaves_out_what_it_left_out_before_and_no_more(
    chain: Chain, job, order: Callable[..., None]
) -> None:
    """Its worker died after `mid_eval_report` was made, and before that was checked."""
    from dagster._core.execution.api import execute_run_iterator

    reports = ("base_eval_report", "mid_eval_report", "sft_eval_report")
    assert chain.materialize(*DATA, *CHECKPOINTS, "base_eval_report", "mid_eval_report").success
    found = submit.definitions().get_reconstructable_job("reevaluation")
    tags = {KEEP_FRESH_TAG: "true", SKIPPED_TAG: json.dumps({"base_eval_report": "is fresh, made 2 h ago"})}
    keys = frozenset(map(dg.AssetKey, reports))
    run = chain.instance.create_run_for_job(found.get_definition(), tags=tags, asset_selection=keys)
    chain.instance.report_dagster_event(DagsterEvent("PIPELINE_START", run.job_name), run_id=run.run_id)
    order("base_checkpoint", content="other weights")
    assert chain.materialize("base_checkpoint").success, "base_eval_report is no longer fresh"
    list(
        execute_run_iterator(found, chain.instance.get_run_by_id(run.run_id), chain.instance, resume_from_failure=True)
    )
    assert chain.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.SUCCESS
    assert made(chain, run) == ["mid_eval_report", "sft_eval_report"], "what is fresh by now is not left out"
    assert checked(chain, run) == {"mid_eval_report", "sft_eval_report"}


def test_an_overridden_config_is_not_what_was_evaluated(chain: Chain, job) -> None:
    assert chain.materialize(*DATA, *CHECKPOINTS, *REPORTS).success
    run = job(run_config={"ops": {"rl_eval_report": {"config": {"limit": 7}}}})
    assert made(chain, run) == ["rl_eval_report", "pipeline_report"]
    assert said(chain, run)[-1].startswith("To be made: rl_eval_report was made by other code or with another config;")


def test_the_schedule_starts_no_run_where_nothing_is_outdated(chain: Chain, order: Callable[..., None]) -> None:
    nothing = tick(chain)
    assert isinstance(nothing, str) and nothing.startswith(
        "Nothing to evaluate: base_eval_report needs base_checkpoint, aqua_dataset and pretrain_text, "
        "which were never made; mid_eval_report needs "
    )
    assert chain.materialize(*DATA, *CHECKPOINTS[:2]).success
    request = tick(chain)
    assert selected(request) == {"base_eval_report", "mid_eval_report"}
    reasons = json.loads(request.tags[SKIPPED_TAG])
    assert reasons["sft_eval_report"] == "needs sft_checkpoint, which was never made"
    assert set(reasons) == set(REPORTS) - selected(request)
    assert chain.materialize("base_eval_report", "mid_eval_report").success
    nothing = tick(chain)
    assert isinstance(nothing, str)
    assert "base_eval_report is fresh, made just now; mid_eval_report is fresh, made just now; sft_eval_re" in nothing

    order("base_eval_report", metrics=SCORES, content="another report")
    assert chain.materialize("base_eval_report").success
    assert selected(tick(chain)) == {"mid_eval_report"}, "it is compared with another report now"


def test_each_experiment_is_judged_by_itself(chain: Chain, job, store_uri: str, monkeypatch) -> None:
    wide = Experiment(load_profile("demo", {"eval_report": {"limit": 9}}), "wide")
    both = Chain(chain.instance, toy_definitions.build(named=[wide]))
    monkeypatch.setattr(toy_definitions, "defs", both.defs)
    monkeypatch.setattr("aquarat_pipeline.experiments.of_run", lambda names: {"wide": wide}[next(iter(set(names)))])
    assert both.materialize(*DATA, "base_checkpoint", "base_eval_report").success
    assert isinstance(tick(both), str)
    assert "wide/base_eval_report needs wide/base_checkpoint" in tick(both, "wide_weekly_reevaluation")
    assert both.materialize(*(f"wide/{name}" for name in (*DATA, "base_checkpoint"))).success
    request = tick(both, "wide_weekly_reevaluation")
    assert selected(request) == {"wide/base_eval_report"} and request.tags[EXPERIMENT_TAG] == "wide"
    assert isinstance(tick(both), str)
    run = job("wide_reevaluation", asset_selection=[dg.AssetKey(["wide", "base_eval_report"])])
    assert made(both, run) == ["wide/base_eval_report"]
    again = job("wide_reevaluation", asset_selection=[dg.AssetKey(["wide", "base_eval_report"])])
    assert made(both, again) == []
    assert json.loads(again.tags[SKIPPED_TAG]) == {"wide/base_eval_report": "is fresh, made just now"}


def test_a_lost_report_is_made_again(chain: Chain, store_uri: str) -> None:
    from aquarat_core.artifacts import ArtifactStore

    assert chain.materialize(*DATA, "base_checkpoint", "base_eval_report").success
    store = ArtifactStore.open(store_uri)
    store.backend.delete(f"manifests/{store.latest('base_eval_report').sha256}.json")
    request = tick(chain)
    assert selected(request) == {"base_eval_report"}
    assert set(json.loads(request.tags[SKIPPED_TAG])) == set(REPORTS) - {"base_eval_report"}
