"""The sensor that reports failed runs and finished training to a webhook.

Dagster's own run status sensors drop a notification that fails. This one keeps it in its cursor and tries again at its
next ticks.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import dagster as dg

from aquarat_core.errors import UsageError
from aquarat_pipeline.sensors import webhook
from aquarat_pipeline.sensors.messages import message

SECONDS = 60
"""Shortest time between two ticks."""
MAX_TRIES = 3
MAX_POSTS = 4
"""Posts in one tick. Dagster ends a tick after a minute."""
_PAGE = 100
_ENDS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)


def notify_runs() -> dg.SensorDefinition:
    """The sensor that posts each failed run, and each run that has trained a checkpoint, to the webhook."""

    @dg.sensor(  # pyright: ignore[reportUnknownMemberType]  # a generic class without its argument
        name="notify_runs",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=(
            f"Posts JSON to the address in {webhook.VARIABLE} when a run fails, and when a run that has trained a "
            "checkpoint succeeds. Off until it is switched on in the UI."
        ),
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        state = State.read(context.cursor)
        first = not state.after
        _add_ended(context.instance, state)
        try:
            address = webhook.url()
        except UsageError as e:
            address, wrong = None, str(e)
        else:
            wrong = f"{webhook.VARIABLE} is not set in the environment of the code server"
        if address is None:
            lines = [f"The end of run {run_id} is not reported." for run_id in state.pending]
            state.pending.clear()
            return dg.SensorResult(skip_reason=" ".join([f"{wrong}.", *lines]), cursor=state.to_json())
        lines = ["Runs are reported from now on."] if first else []
        for run_id in list(state.pending)[:MAX_POSTS]:
            lines += filter(None, [_report(context.instance, address, run_id, state)])
        for line in lines:
            context.log.info(line)
        return dg.SensorResult(skip_reason=" ".join(lines) or "There is nothing to report.", cursor=state.to_json())

    return evaluate


@dataclass(slots=True)
class State:
    """The content of the sensor's cursor."""

    after: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    """By kind of event, Dagster's cursor of the last one seen; empty before the first tick."""
    pending: dict[str, int] = field(default_factory=dict[str, int])
    """Runs that have ended and are not reported yet, and the number of tries so far."""

    @classmethod
    def read(cls, text: str | None) -> State:
        """Reads a cursor. One that cannot be read counts as empty, so older runs are not reported."""
        with suppress(ValueError):
            held: Any = json.loads(text or "{}")
            fields = cast("dict[str, Any]", held) if isinstance(held, dict) else {}
            after, pending = fields.get("after"), fields.get("pending")
            if isinstance(after, dict) and isinstance(pending, dict):
                cursors, tries = cast("dict[str, Any]", after), cast("dict[str, Any]", pending)
                known = {kind: cursor for kind, cursor in cursors.items() if isinstance(cursor, str | None)}
                return cls(known, {run_id: count for run_id, count in tries.items() if isinstance(count, int)})
        return cls()

    def to_json(self) -> str:
        return json.dumps({"after": self.after, "pending": self.pending})


def _add_ended(instance: dg.DagsterInstance, state: State) -> None:
    """Adds runs that have ended since the last tick to `state`. The first tick only notes where to start."""
    for kind in _ENDS:
        if kind.value not in state.after:
            state.after[kind.value] = instance.fetch_run_status_changes(kind, limit=1).cursor
            continue
        page = instance.fetch_run_status_changes(kind, limit=_PAGE, cursor=state.after[kind.value], ascending=True)
        state.after[kind.value] = page.cursor
        for record in page.records:
            state.pending.setdefault(record.run_id, 0)


def _report(instance: dg.DagsterInstance, address: str, run_id: str, state: State) -> str | None:
    """Tries to report a run once. Returns the outcome as a sentence, or None if there is nothing to report."""
    tries = state.pending.pop(run_id) + 1
    run = instance.get_run_by_id(run_id)
    if run is None:
        return f"Run {run_id} was deleted before it was reported."
    body = message(instance, run)
    if body is None:
        return None
    wrong = webhook.post(address, body)
    if wrong is None:
        return f"Run {run_id} was reported: {body['event']}."
    if tries >= MAX_TRIES:
        return f"Run {run_id} could not be reported: {wrong} (try {tries} of {MAX_TRIES}, the last)."
    state.pending[run_id] = tries
    return f"Run {run_id} is not reported yet: {wrong} (try {tries} of {MAX_TRIES})."
