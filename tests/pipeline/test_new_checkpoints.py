"""The sensor that evaluates new checkpoints: each once, in the order of the chain, beside no run that does the same."""

from __future__ import annotations

import json
from collections.abc import Callable

import dagster as dg
import pytest

from aquarat_core.config import load_profile
from aquarat_core.stages.registry import CHECKPOINTS
from aquarat_pipeline._compat import SINGLETON_REPOSITORY_NAME, DagsterEvent
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.runs.origin import WORKSPACE, job_origin
from aquarat_pipeline.tags import EXPERIMENT_TAG
from tests.pipeline import toy_definitions
from tests.pipeline.toy_chain import Chain

pytestmark = pytest.mark.slow

DATA = ("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer", "pretrain_tokens")
SCORES = {"n": 9, "accuracy": 0.5, "accuracy_lo": 0.4, "accuracy_hi": 0.6, "constant_letter_accuracy": 0.2}


@pytest.fixture(autouse=True)
def good_reports(order: Callable[..., None]) -> None:
    for phase in ("base", "mid"):
        order(f"{phase}_eval_report", metrics={**SCORES, "parse_rate": 0.9})


class Watch:
    """The sensor as the daemon asks it, tick after tick."""

    def __init__(self, chain: Chain, name: str = "evaluate_new_checkpoints") -> None:
        self.chain = chain
        self.sensor = chain.defs.get_repository_def().get_sensor_def(name)
        self.cursor: str | None = None

    def tick(self) -> list[dg.RunRequest] | str:
        """The runs that it asks for, or why there are none."""
        data = self.sensor.evaluate_tick(dg.build_sensor_context(self.chain.instance, cursor=self.cursor))
        self.cursor = data.cursor
        return list(data.run_requests) or data.skip_message or ""

    def asked(self) -> str:
        """The one report that the one run it asks for would make."""
        found = self.tick()
        assert not isinstance(found, str), found
        (request,) = found
        (key,) = request.asset_selection
        return key.to_user_string()


@pytest.fixture
def unfinished(chain: Chain) -> Callable[..., dg.DagsterRun]:
    """A run over assets that has come as far as that event."""

    def create(event: dg.DagsterEventType, *names: str, defs: dg.Definitions | None = None) -> dg.DagsterRun:
        job = (defs or chain.defs).resolve_implicit_global_asset_job_def()
        keys = frozenset(map(dg.AssetKey.from_user_string, names))
        origin = job_origin(job.name, SINGLETON_REPOSITORY_NAME, WORKSPACE)
        run = chain.instance.create_run_for_job(job, asset_selection=keys, remote_job_origin=origin)
        chain.instance.report_dagster_event(DagsterEvent(event.value, job.name), run_id=run.run_id)
        return run

    return create


def manifest(chain: Chain, name: str) -> str:
    return chain.latest(name).metadata["manifest_sha256"].value


def test_each_new_checkpoint_is_evaluated_once(chain: Chain, order: Callable[..., None]) -> None:
    watch = Watch(chain)
    assert watch.tick() == "No new checkpoint to evaluate."
    assert chain.materialize(*DATA, *CHECKPOINTS[:2]).success
    (request,) = watch.tick()
    assert request.run_key == f"base_eval_report@{manifest(chain, 'base_checkpoint')}"
    assert chain.materialize("base_eval_report").success
    assert watch.asked() == "mid_eval_report"
    assert watch.tick() == "No new checkpoint to evaluate.", "asked for once, whatever becomes of it"
    assert chain.materialize("mid_eval_report").success
    assert watch.tick() == "No new checkpoint to evaluate."

    assert chain.materialize("mid_checkpoint").success, "the same bytes under a new manifest"
    assert watch.tick() == "No new checkpoint to evaluate."
    order("mid_checkpoint", content="other weights")
    assert chain.materialize("mid_checkpoint").success
    first = watch.cursor
    (request,) = watch.tick()
    assert request.run_key == f"mid_eval_report@{manifest(chain, 'mid_checkpoint')}"
    for lost in (first, None, "nonsense", "[1]", '{"mid_checkpoint": 3}'):
        watch.cursor = lost
        (again,) = watch.tick()
        assert again.run_key == request.run_key, "by which Dagster knows that it has started it"
    assert json.loads(watch.cursor or "") == {
        "base_checkpoint": manifest(chain, "base_checkpoint"), "mid_checkpoint": manifest(chain, "mid_checkpoint")
    }  # fmt: skip


@pytest.mark.parametrize("event", ["RUN_ENQUEUED", "RUN_STARTING", "RUN_START"])
def test_a_run_that_makes_the_report_is_waited_for(
    chain: Chain, unfinished: Callable[..., dg.DagsterRun], event: str
) -> None:
    watch = Watch(chain)
    assert chain.materialize(*DATA, *CHECKPOINTS[:2], "base_eval_report").success
    run = unfinished(dg.DagsterEventType[event], "mid_eval_report", "pipeline_report")
    assert watch.tick() == (
        "No new checkpoint to evaluate. mid_eval_report waits for a run that makes mid_eval_report."
    )
    chain.instance.report_run_canceled(run)
    assert watch.asked() == "mid_eval_report"


def test_a_report_waits_for_the_one_it_is_compared_with(chain: Chain, unfinished: Callable[..., dg.DagsterRun]) -> None:
    watch = Watch(chain)
    assert chain.materialize(*DATA, *CHECKPOINTS[:2], "base_eval_report").success
    run = unfinished(dg.DagsterEventType.RUN_START, "base_eval_report")
    assert watch.tick() == (
        "No new checkpoint to evaluate. base_eval_report waits for a run that makes base_eval_report. mid_eval_report "
        "waits for a run that makes base_eval_report."
    )
    chain.instance.report_run_failed(run)
    assert watch.asked() == "mid_eval_report"


def test_a_checkpoint_whose_report_lacks_an_input_is_seen_later(chain: Chain, order: Callable[..., None]) -> None:
    watch = Watch(chain)
    chain.instance.report_runless_asset_event(dg.AssetMaterialization("base_checkpoint"))
    assert watch.tick() == "No new checkpoint to evaluate.", "an event reported by hand names no manifest"
    assert chain.materialize(*DATA, *CHECKPOINTS[:1]).success
    chain.instance.wipe_assets([dg.AssetKey("pretrain_text")])
    said = watch.tick()
    assert isinstance(said, str)
    assert said.endswith("base_eval_report needs pretrain_text, which was never made.")
    assert chain.materialize("pretrain_text").success
    assert watch.asked() == "base_eval_report"


def test_each_experiment_has_a_sensor_of_its_own(chain: Chain, unfinished: Callable[..., dg.DagsterRun]) -> None:
    wide = Experiment(load_profile("demo", {"eval_report": {"limit": 9}}), "wide")
    both = Chain(chain.instance, toy_definitions.build(named=[wide]))
    main, other = Watch(both), Watch(both, "wide_evaluate_new_checkpoints")
    assert both.materialize(*(f"wide/{name}" for name in (*DATA, "base_checkpoint"))).success
    assert main.tick() == "No new checkpoint to evaluate."
    run = unfinished(dg.DagsterEventType.RUN_START, "wide/base_eval_report", defs=both.defs)
    assert "waits for a run that makes wide/base_eval_report" in other.tick()
    chain.instance.report_run_failed(run)
    (request,) = other.tick()
    assert request.tags[EXPERIMENT_TAG] == "wide"
    assert request.run_key == f"wide/base_eval_report@{manifest(both, 'wide/base_checkpoint')}"
    assert main.tick() == "No new checkpoint to evaluate."
