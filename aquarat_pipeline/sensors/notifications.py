"""The sensor that reports failed re-evaluations to a webhook.

Dagster's own run failure sensors drop a notification that fails. This one keeps it in its cursor and tries again at its
next ticks.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import dagster as dg

from aquarat_core.errors import UsageError
from aquarat_core.plain_text import one_line
from aquarat_pipeline._compat import UnresolvedAssetJobDefinition as Job
from aquarat_pipeline.runs.lines import failed_check, is_blocked
from aquarat_pipeline.sensors import webhook

UI_URL = "AQUARAT_UI_URL"
"""Variable with the UI's address for readers of notifications. Used for the link to the run."""
SECONDS = 60
"""Shortest time between two ticks."""
MAX_TRIES = 3
MAX_POSTS = 4
"""Posts in one tick. Dagster ends a tick after a minute."""
_PAGE = 100
_MAX_SENTENCE = 300


def failed_reevaluations(jobs: Iterable[Job]) -> dg.SensorDefinition:
    """The sensor that posts each failed run of `jobs` to the webhook."""
    names = frozenset(job.name for job in jobs)

    @dg.sensor(  # pyright: ignore[reportUnknownMemberType]  # a generic class without its argument
        name="notify_failed_reevaluation",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=(
            f"Posts JSON to the address in {webhook.VARIABLE} when a re-evaluation fails. Off until it is switched on "
            "in the UI."
        ),
    )
    def notify_failed_reevaluation(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        state = State.read(context.cursor)
        first = state.after is None
        _add_failures(context.instance, names, state)
        try:
            address = webhook.url()
        except UsageError as e:
            address, wrong = None, str(e)
        else:
            wrong = f"{webhook.VARIABLE} is not set in the environment of the code server"
        if address is None:
            lines = [f"The failure of run {run_id} is not reported." for run_id in state.pending]
            state.pending.clear()
            return dg.SensorResult(skip_reason=" ".join([f"{wrong}.", *lines]), cursor=state.to_json())
        lines = ["Failures are reported from now on."] if first else []
        for run_id in list(state.pending)[:MAX_POSTS]:
            lines.append(_report(context.instance, address, run_id, state))
        for line in lines:
            context.log.info(line)
        return dg.SensorResult(skip_reason=" ".join(lines) or "No re-evaluation has failed.", cursor=state.to_json())

    return notify_failed_reevaluation


@dataclass(slots=True)
class State:
    """The content of the sensor's cursor."""

    after: str | None = None
    """Dagster's cursor of the last failure seen; None before the first tick."""
    pending: dict[str, int] = field(default_factory=dict[str, int])
    """Failed runs that are not reported yet, and the number of tries so far."""

    @classmethod
    def read(cls, text: str | None) -> State:
        """Reads a cursor. One that cannot be read counts as empty, so older failures are not reported."""
        with suppress(ValueError):
            held: Any = json.loads(text or "{}")
            fields = cast("dict[str, Any]", held) if isinstance(held, dict) else {}
            after, pending = fields.get("after"), fields.get("pending")
            if isinstance(after, str) and isinstance(pending, dict):
                tries = cast("dict[str, Any]", pending)
                return cls(after, {run_id: count for run_id, count in tries.items() if isinstance(count, int)})
        return cls()

    def to_json(self) -> str:
        return json.dumps({"after": self.after, "pending": self.pending})


def _add_failures(instance: dg.DagsterInstance, jobs: frozenset[str], state: State) -> None:
    """Adds runs that have failed since the last tick to `state`. The first tick only notes where to start."""
    failed = dg.DagsterEventType.RUN_FAILURE
    if state.after is None:
        state.after = instance.fetch_run_status_changes(failed, limit=1).cursor
        return
    page = instance.fetch_run_status_changes(failed, limit=_PAGE, cursor=state.after, ascending=True)
    state.after = page.cursor
    for run_id in (record.run_id for record in page.records):
        run = instance.get_run_by_id(run_id)
        if run is not None and run.job_name in jobs:
            state.pending.setdefault(run_id, 0)


def _report(instance: dg.DagsterInstance, address: str, run_id: str, state: State) -> str:
    """Tries to report a failure once. Returns the outcome as a sentence."""
    tries = state.pending.pop(run_id) + 1
    run = instance.get_run_by_id(run_id)
    if run is None:
        return f"Run {run_id} was deleted before its failure was reported."
    wrong = webhook.post(address, message(instance, run))
    if wrong is None:
        return f"The failure of run {run_id} was reported."
    if tries >= MAX_TRIES:
        return f"The failure of run {run_id} could not be reported: {wrong} (try {tries} of {MAX_TRIES}, the last)."
    state.pending[run_id] = tries
    return f"The failure of run {run_id} is not reported yet: {wrong} (try {tries} of {MAX_TRIES})."


def message(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, Any]:
    """The body of a notification: fields for programs, and `text` for services like Slack."""
    steps, error = _failure(instance, run.run_id)
    what = ", ".join(steps) or run.job_name
    link = _link(run.run_id)
    text = f"Re-evaluation failed: {what} in run {run.run_id}. {error}"
    return {
        "text": _slack(f"{text} {link}" if link else text),
        "event": "reevaluation_failed",
        "job": one_line(run.job_name),
        "failed": steps,
        "run_id": run.run_id,
        "error": error,
        "url": link,
    }


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
