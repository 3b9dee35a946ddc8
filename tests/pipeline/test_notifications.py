"""A failed run, and finished training, reach the webhook, and the webhook's address reaches nobody else."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from aquarat_core.errors import UsageError
from aquarat_pipeline.sensors import notifications, webhook
from aquarat_pipeline.sensors.messages import UI_URL, first_sentence, message
from aquarat_pipeline.sensors.notifications import MAX_TRIES
from tests.pipeline.toy_chain import Chain
from tests.pipeline.webhook_server import SECRET, Hook
from tests.serving import serving


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    server = Hook()
    monkeypatch.setenv(webhook.VARIABLE, server.url)
    monkeypatch.setattr(webhook, "SECONDS", 1.0)
    with serving(server):
        yield server
        server.ended.set()


class Watch:
    """The sensor as the daemon asks it, tick after tick."""

    def __init__(self, chain: Chain) -> None:
        self.instance = chain.instance
        self.sensor = chain.defs.get_repository_def().get_sensor_def("notify_runs")
        self.cursor: str | None = None

    def tick(self) -> str:
        data = self.sensor.evaluate_tick(dg.build_sensor_context(self.instance, cursor=self.cursor))
        self.cursor = data.cursor
        assert not data.run_requests
        return data.skip_message or ""


@pytest.fixture
def fails(chain: Chain) -> Callable[..., str]:
    """A run of a job that fails; its id."""

    def fail(job: str = "reevaluation", why: str = "The host went away. It is not known why.") -> str:
        definition = chain.defs.get_repository_def().get_job(job)
        run = chain.instance.create_run_for_job(definition, status=dg.DagsterRunStatus.STARTED)
        chain.instance.report_run_failed(run, why)
        return run.run_id

    return fail


def test_failures_are_told_once(
    chain: Chain, hook: Hook, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(UI_URL, "https://dagster.example.org/")
    watch = Watch(chain)
    fails()
    assert watch.tick() == "Runs are reported from now on."
    assert watch.tick() == "There is nothing to report." and hook.bodies == []
    run_id = fails()
    assert watch.tick() == f"Run {run_id} was reported: run_failed."
    assert hook.bodies == [
        {
            "text": f"Run failed: reevaluation in run {run_id}. The host went away. "
            f"https://dagster.example.org/runs/{run_id}",
            "event": "run_failed",
            "job": "reevaluation",
            "failed": [],
            "run_id": run_id,
            "error": "The host went away.",
            "url": f"https://dagster.example.org/runs/{run_id}",
        }
    ]
    for lost in ("nonsense", "[]", '{"after": 3, "pending": {}}', '{"after": null, "pending": {}}'):
        watch.cursor = lost
        assert watch.tick() == "Runs are reported from now on."
    assert len(hook.bodies) == 1


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (500, "the webhook answered 500"),
        (302, "the webhook answered 302, a redirect, which is not followed"),
        (307, "the webhook answered 307, a redirect, which is not followed"),
        ("hang", "the webhook did not answer within 1 s"),
        ("drip", "the webhook did not answer within 1 s"),
        ("close", "the webhook could not be reached (ConnectionError)"),
    ],
)
def test_what_could_not_be_told_is_tried_again_a_few_times(
    chain: Chain, hook: Hook, fails: Callable[..., str], does: int | str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    watch = Watch(chain)
    watch.tick()
    hook.does = does
    run_id = fails()
    began = time.monotonic()
    heard = [watch.tick() for _ in range(MAX_TRIES)]
    assert time.monotonic() - began < 30
    assert heard[0] == f"Run {run_id} is not reported yet: {said} (try 1 of 3)."
    assert heard[-1] == f"Run {run_id} could not be reported: {said} (try 3 of 3, the last)."
    assert watch.tick() == "There is nothing to report."
    assert len(hook.bodies) == MAX_TRIES and set(hook.paths) == {f"/{SECRET}"}, "nobody went elsewhere"
    everything = [*heard, watch.cursor or "", caplog.text, json.dumps(hook.bodies)]
    assert not [text for text in everything if "s3cret" in text]

    run_id = fails()
    assert "try 1 of 3" in watch.tick()
    hook.does = 200
    assert watch.tick() == f"Run {run_id} was reported: run_failed."
    assert hook.bodies[-1] == hook.bodies[-2], "the same again"


def test_without_an_address_the_failure_is_said_in_the_ui(
    chain: Chain, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(chain)
    monkeypatch.delenv(webhook.VARIABLE, raising=False)
    watch.tick()
    run_id = fails()
    assert watch.tick() == (
        "AQUARAT_WEBHOOK_URL is not set in the environment of the code server. "
        f"The end of run {run_id} is not reported."
    )
    assert run_id not in watch.tick()


@pytest.mark.parametrize(
    "address", ["http://example.org/x", "ftp://127.0.0.1/x", "https://", "https://[", "example.org", "https://a:b"]
)
def test_an_address_that_would_send_in_the_clear_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(webhook.VARIABLE, address)
    with pytest.raises(UsageError) as caught:
        webhook.url()
    assert str(caught.value) == (
        "AQUARAT_WEBHOOK_URL must be an https:// address, or http:// on this machine (127.0.0.1)"
    )


@pytest.mark.parametrize(
    "address", ["https://example.org/x", "http://127.0.0.1:8/x", "http://localhost/", "http://[::1]/"]
)
def test_an_address_that_may_be_used(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(webhook.VARIABLE, f" {address} ")
    assert webhook.url() == address


@pytest.mark.slow
def test_finished_training_is_told_and_other_runs_are_not(
    chain: Chain, hook: Hook, order: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(UI_URL, "https://dagster.example.org")
    watch = Watch(chain)
    watch.tick()
    assert chain.materialize("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer", "pretrain_tokens").success
    assert watch.tick() == "There is nothing to report." and hook.bodies == []
    order("base_checkpoint", metrics={"val_bpb": 0.43, "seconds": 79.1})
    run_id = chain.materialize("base_checkpoint").run_id
    assert watch.tick() == f"Run {run_id} was reported: training_finished."
    said = "0.430 bits per byte on validation text, in 79 s"
    link = f"https://dagster.example.org/runs/{run_id}"
    assert hook.bodies == [
        {
            "text": f"Training finished: base_checkpoint: {said}, in run {run_id}. {link}",
            "event": "training_finished",
            "job": "__ASSET_JOB",
            "trained": {"base_checkpoint": said},
            "run_id": run_id,
            "url": link,
        }
    ]


@pytest.mark.slow
def test_a_message_names_the_steps_and_is_harmless(chain: Chain, order: Callable[..., None]) -> None:
    order("aqua_dataset", user_error="<!channel> \x1b[2Jno\u202e rows.txt & all that. Look there.\nAnd more")
    run = chain.instance.get_run_by_id(chain.materialize("aqua_dataset").run_id)
    assert run is not None
    body = message(chain.instance, run)
    assert body is not None
    assert body["failed"] == ["aqua_dataset"] and body["url"] is None
    assert body["error"] == "aqua_dataset: <!channel> \\u001b[2Jno\\u202e rows.txt & all that."
    assert body["text"] == (
        f"Run failed: aqua_dataset in run {run.run_id}. aqua_dataset: &lt;!channel&gt; \\u001b[2Jno\\u202e "
        "rows.txt &amp; all that."
    )


@pytest.mark.slow
def test_a_message_says_why_a_blocking_check_failed(chain: Chain, order: Callable[..., None]) -> None:
    data = ("aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer", "pretrain_tokens")
    assert chain.materialize(*data, "base_checkpoint", "mid_checkpoint").success
    scores = {"n": 9, "accuracy": 0.5, "accuracy_lo": 0.4, "accuracy_hi": 0.6, "constant_letter_accuracy": 0.2}
    order("base_eval_report", metrics={**scores, "parse_rate": 0.0})
    order("mid_eval_report", metrics={**scores, "parse_rate": 0.0})
    run = chain.instance.get_run_by_id(chain.materialize("base_eval_report", "mid_eval_report").run_id)
    assert run is not None
    body = message(chain.instance, run)
    assert body is not None
    assert body["failed"] == ["mid_eval_report"]
    assert body["error"].startswith("asset check parse_rate_holds of mid_eval_report failed: None of 9 answers can be")


def test_the_first_sentence() -> None:
    assert first_sentence("") == ""
    assert first_sentence("no end") == "no end"
    assert first_sentence("3.5 of 4 are lost! And more.") == "3.5 of 4 are lost!"
    assert first_sentence("x" * 500) == "x" * 299 + "…"


def test_a_deleted_run_and_many_failures_end(chain: Chain, hook: Hook, fails: Callable[..., str]) -> None:
    watch = Watch(chain)
    watch.tick()
    gone, *rest = [fails() for _ in range(notifications.MAX_POSTS + 2)]
    hook.does = 500
    assert "try 1 of 3" in watch.tick()
    assert len(hook.bodies) == notifications.MAX_POSTS, "the others wait for the next tick"
    hook.does = 200
    chain.instance.delete_run(gone)
    heard = " ".join(watch.tick() for _ in range(3))
    assert f"Run {gone} was deleted before it was reported." in heard
    assert all(f"Run {run_id} was reported: run_failed." in heard for run_id in rest)
