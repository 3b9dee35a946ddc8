"""Dagster's own daemon evaluates a new checkpoint, once, and tells a webhook of an evaluation that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRun, RunsFilter

from tests.folders import contents_below
from tests.launching.cluster_fixture import Cluster
from tests.patience import wait_until
from tests.pipeline.webhook_server import Hook
from tests.serving import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DATA = ("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer", "pretrain_tokens")
SCORES = {"n": 9, "accuracy": 0.5, "accuracy_lo": 0.4, "accuracy_hi": 0.6, "constant_letter_accuracy": 0.2}
EVALUATE, NOTIFY = "evaluate_new_checkpoints", "notify_runs"


@pytest.fixture
def hook() -> Iterator[Hook]:
    with serving(Hook()) as server:
        yield server


@pytest.fixture
def cluster(tmp_path: Path, hook: Hook) -> Iterator[Cluster]:
    orders = {
        "TOY_BASE_EVAL_REPORT": json.dumps({"metrics": {**SCORES, "parse_rate": 0.1}}),
        "TOY_MID_EVAL_REPORT": json.dumps({"user_error": "The rows are gone. Look for them."}),
    }
    env = {"AQUARAT_PROFILE": "demo", "AQUARAT_WEBHOOK_URL": hook.url, **orders}
    made = Cluster(tmp_path / "cluster", env=env, module="tests.pipeline.toy_definitions")
    yield made
    made.close()


def evaluations(cluster: Cluster) -> list[DagsterRun]:
    """The runs that the sensor has started, oldest first."""
    return list(reversed(cluster.instance.get_runs(RunsFilter(tags={"dagster/sensor_name": EVALUATE}))))


def ticks(cluster: Cluster, name: str) -> int:
    """How often the sensor was asked so far."""
    (state,) = [s for s in cluster.instance.all_instigator_state() if s.instigator_name == name]
    return len(cluster.instance.get_ticks(state.instigator_origin_id, state.selector_id))


def test_a_new_checkpoint_is_evaluated_once_and_a_failure_is_told(cluster: Cluster, hook: Hook) -> None:
    cluster.start_daemon()
    assert cluster.wait(cluster.launch(*DATA, "base_checkpoint")) == "SUCCESS"
    cluster.dagster("sensor", "start", EVALUATE)
    cluster.dagster("sensor", "start", NOTIFY)
    wait_until(lambda: evaluations(cluster), 60, "the sensor starts a run")
    (run,) = evaluations(cluster)
    assert cluster.wait(run.run_id) == "SUCCESS"
    assert [record.run_id for record in cluster.materializations("base_eval_report")] == [run.run_id]
    checks = {e.dagster_event.asset_check_evaluation_data.check_name for e in cluster.instance.all_logs(run.run_id)
              if e.dagster_event and e.dagster_event.event_type_value == "ASSET_CHECK_EVALUATION"}  # fmt: skip
    assert {"artifact_complete", "parse_rate_holds", "not_worse_than_last"} <= checks

    # The daemon is killed, and the sensor forgets what it has seen.
    cluster.stop_daemon()
    cluster.dagster("sensor", "cursor", EVALUATE, "--delete")
    cluster.start_daemon()
    asked = ticks(cluster, EVALUATE)
    wait_until(lambda: ticks(cluster, EVALUATE) >= asked + 2, 90, "the sensor is asked again")
    assert [r.run_id for r in evaluations(cluster)] == [run.run_id]

    assert hook.bodies == []
    assert cluster.wait(cluster.launch("mid_checkpoint")) == "SUCCESS"
    wait_until(lambda: len(evaluations(cluster)) == 2, 60, "the sensor starts another run")
    failed = evaluations(cluster)[1]
    assert cluster.wait(failed.run_id) == "FAILURE"
    wait_until(lambda: len(hook.bodies) == 2, 60, "the webhook is told")
    trained, body = hook.bodies
    assert (trained["event"], list(trained["trained"])) == ("training_finished", ["mid_checkpoint"])
    assert (body["failed"], body["run_id"]) == (["mid_eval_report"], failed.run_id)
    assert body["error"] == "mid_eval_report: The rows are gone."
    asked = ticks(cluster, EVALUATE)
    wait_until(lambda: ticks(cluster, EVALUATE) >= asked + 2, 60, "the sensor is asked again")
    assert len(evaluations(cluster)) == 2 and len(hook.bodies) == 2, "it is not tried again"
    logs = b"".join(text for path, text in contents_below(cluster.directory / "home").items() if path.suffix == ".log")
    assert b"s3cret" not in logs + (cluster.directory / "daemon.log").read_bytes()
