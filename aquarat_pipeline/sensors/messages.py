"""What a webhook is told about a run: that it failed and why, or which checkpoints it has trained."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import dagster as dg

from aquarat_core.artifacts.store import asset_of
from aquarat_core.durations import duration
from aquarat_core.evaluation.headline import headline
from aquarat_core.plain_text import one_line
from aquarat_core.stages.registry import CHECKPOINTS
from aquarat_pipeline.events import metrics_of
from aquarat_pipeline.runs.lines import failed_check, is_blocked

UI_URL = "AQUARAT_UI_URL"
"""Variable with the UI's address for readers of notifications. Used for the link to the run."""
_MAX_SENTENCE = 300


def message(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, Any] | None:
    """The body of a notification: fields for programs, and `text` for services like Slack.

    None for a run that succeeded and has trained no checkpoint.
    """
    return _finished(instance, run) if run.status == dg.DagsterRunStatus.SUCCESS else _failed(instance, run)


def _failed(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, Any]:
    steps, error = _failure(instance, run.run_id)
    what = ", ".join(steps) or run.job_name
    return {
        "text": _text(f"Run failed: {what} in run {run.run_id}. {error}", run),
        "event": "run_failed",
        "job": one_line(run.job_name),
        "failed": steps,
        "run_id": run.run_id,
        "error": error,
        "url": _link(run.run_id),
    }


def _finished(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, Any] | None:
    trained: dict[str, str] = {}
    for entry in instance.all_logs(run.run_id, of_type={dg.DagsterEventType.ASSET_MATERIALIZATION}):
        made = entry.asset_materialization
        name = made.asset_key.to_user_string() if made else ""
        if made and asset_of(name) in CHECKPOINTS:
            metrics = metrics_of(made)
            took = f"in {duration(metrics['seconds'])}" if "seconds" in metrics else ""
            trained[one_line(name)] = one_line(", ".join(filter(None, (headline(metrics), took))))
    if not trained:
        return None
    said = "; ".join(": ".join(filter(None, item)) for item in trained.items())
    return {
        "text": _text(f"Training finished: {said}, in run {run.run_id}.", run),
        "event": "training_finished",
        "job": one_line(run.job_name),
        "trained": trained,
        "run_id": run.run_id,
        "url": _link(run.run_id),
    }


def _text(text: str, run: dg.DagsterRun) -> str:
    link = _link(run.run_id)
    return _slack(f"{text} {link}" if link else text)


def _failure(instance: dg.DagsterInstance, run_id: str) -> tuple[list[str], str]:
    """The steps that failed, and the first sentence of the first error."""
    kinds = {
        dg.DagsterEventType.STEP_FAILURE,
        dg.DagsterEventType.RUN_FAILURE,
        dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    }
    steps: list[str] = []
    said: list[str] = []
    for event in (entry.dagster_event for entry in instance.all_logs(run_id, of_type=kinds)):
        if event is None:
            continue
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            said += filter(None, [failed_check(event.asset_check_evaluation_data)])
        elif event.is_step_failure:
            steps.append(one_line(event.step_key or "?"))
            data = event.step_failure_data
            own = data.user_failure_data.description if data.user_failure_data else None
            if not is_blocked(event):
                said.append(own or (data.error.message if data.error else ""))
        elif not said:
            said.append(_reason(event))
    return steps, first_sentence(next(filter(None, said), "") or "Dagster gives no reason.")


def _reason(event: Any) -> str:
    """The error of a run that failed without a failed step."""
    error = event.job_failure_data.error if event.event_specific_data else None
    return (error.message if error else event.message) or ""


def first_sentence(text: str) -> str:
    """The first sentence of the first line, safe to show, cut to 300 characters."""
    line = one_line((text.strip().splitlines() or [""])[0])
    found = re.match(r".*?[.!?](?=\s|$)", line)
    sentence = found[0] if found else line
    return sentence if len(sentence) <= _MAX_SENTENCE else f"{sentence[: _MAX_SENTENCE - 1]}…"


def _slack(text: str) -> str:
    """Escapes text for Slack, where `<!channel>` in an error would notify everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _link(run_id: str) -> str | None:
    """The run's page, if the UI's address is known."""
    base = os.environ.get(UI_URL, "").strip().rstrip("/")
    with suppress(ValueError):
        if urlsplit(base).scheme in ("http", "https"):
            return f"{base}/runs/{run_id}"
    return None
