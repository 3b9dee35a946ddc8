"""A run's events as readable lines, in the terminal that executes the run and for users who follow it."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import dagster as dg

from aquarat_core.durations import duration
from aquarat_core.evaluation.headline import headline
from aquarat_core.plain_text import printable
from aquarat_pipeline._compat import DagsterEvent, ErrorSource
from aquarat_pipeline.events import metrics_of, text_of

_NOISE = ("[pipes] external process successfully opened", "Dependencies for step ")
"""Beginnings of Dagster's own lines that carry no information."""
_BLOCKED = "DagsterAssetCheckFailedError"
"""The error that Dagster raises in the step of a failed blocking check."""


@dg.logger(None, description="One line for each result, warning and failure, on stderr.")
def terminal_logger(_: dg.InitLoggerContext) -> logging.Logger:
    """The logger `console` of our runs; Dagster's would print a traceback for each mistake and nothing for a result."""
    logger = logging.Logger("aquarat", logging.DEBUG)
    logger.addHandler(_Terminal())
    return logger


class _Terminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # Dagster puts the context of every record into this attribute.
        about: dict[str, Any] = getattr(record, "dagster_meta", {})
        text = line(about.get("dagster_event"), about.get("orig_message") or record.getMessage(), record.levelno)
        if text is None:
            return
        tell(of_step(about.get("step_key"), text), record.created)


def tell(text: str, moment: float | None = None) -> None:
    """Prints a line on stderr after its time of day: now, or `moment` in seconds since 1970."""
    clock = time.strftime("%H:%M:%S", time.localtime(moment))
    sys.stderr.write(printable(f"{clock} {text}\n"))
    sys.stderr.flush()


def of_step(step: str | None, text: str) -> str:
    """`text` with the step's name before it, unless it begins with that."""
    return text if step is None or text.startswith(step) else f"{step}: {text}"


def line(event: DagsterEvent | None, message: str, level: int) -> str | None:
    """The line for an event or a message, without the step's name; None if it is not worth a line."""
    if event is None:
        return None if level < logging.INFO or message.startswith(_NOISE) else message
    kind = event.event_type
    if kind == dg.DagsterEventType.ASSET_MATERIALIZATION:
        return _made(event.step_materialization_data.materialization)
    if kind == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        return _check(event.asset_check_evaluation_data)
    if kind == dg.DagsterEventType.STEP_FAILURE:
        return failure(event)
    return message if level >= logging.WARNING else None


def failure(event: DagsterEvent) -> str | None:
    """Why a step failed; includes the whole traceback only if it says more than the message.

    None for an interrupted step, which its client has already explained.
    """
    data = event.step_failure_data
    if data.error_source == ErrorSource.INTERRUPT:
        return None
    if is_blocked(event):
        return "nothing is made from this asset in this run"  # the check's own line gives the reason
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    return data.error_display_string.strip()


def is_blocked(event: DagsterEvent) -> bool:
    """Whether the step failed because of a blocking check, whose own event gives the reason."""
    error = event.step_failure_data.error
    return error is not None and error.cls_name == _BLOCKED


def _made(made: dg.AssetMaterialization) -> str:
    facts = metrics_of(made)
    took = f"in {duration(facts['seconds'])}" if "seconds" in facts else ""
    return ", ".join(filter(None, ("made", headline(facts), took, text_of(made, "dagster/uri"))))


def failed_check(check: dg.AssetCheckEvaluation) -> str | None:
    """`asset check NAME of ASSET failed: ...`; None for a check that passed or only warns."""
    if check.passed or check.severity != dg.AssetCheckSeverity.ERROR:
        return None
    why = f": {check.description}" if check.description else ""
    return f"asset check {check.check_name} of {check.asset_key.to_user_string()} failed{why}"


def _check(check: dg.AssetCheckEvaluation) -> str | None:
    if check.passed:
        return None
    how = "failed" if check.severity == dg.AssetCheckSeverity.ERROR else "warns"
    return f"check {check.check_name} {how}" + (f": {check.description}" if check.description else "")
