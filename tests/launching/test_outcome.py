"""What one attempt's end means: success, the user's mistake, a fault of ours, a lost host, an interrupt."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from aquarat_core.agent.protocol import EndedStatus, Result
from aquarat_core.artifacts import StoreError
from aquarat_core.artifacts.errors import HostDiskFullError
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.jobs.outcome import Ending, JobOutcome

A, B = Host(name="a", address="a"), Host(name="b", address="b")
MADE: Result = {"ok": True, "manifest_sha256": "0" * 64}


def ended(code: int | None = 0, reason: str | None = None, **facts: Any) -> EndedStatus:
    return {
        "state": "ended", "node": 0, "host": "a", "sequence": 9, "chunks": 0, "code": code, "signal": None,
        "launcher_failed": False, "reason": reason, "complete": True, "tail": ["the last line"], **facts,
    }  # fmt: skip


def failed(message: str = "it broke", kind: str = "RuntimeError", user: bool = False) -> Result:
    return {"ok": False, "error": {"type": kind, "message": message, "user": user}}


@pytest.mark.parametrize(
    ("status", "result", "kind", "reason"),
    [
        (ended(), MADE, "succeeded", ""),
        (ended(-15), MADE, "succeeded", ""),  # killed after it had published
        (ended(1), MADE, "fault", ""),
        (ended(7), None, "fault", ""),
        (ended(1), failed(), "fault", ""),
        (ended(2), failed(user=True), "user_error", ""),
        (ended(2, "the store could not be reached"), failed(user=True), "user_error", ""),
        (ended(-9), None, "host_lost", "a: the stage was killed by signal 9"),
        (ended(1, signal=9), None, "host_lost", "a: the stage was killed by signal 9"),
        (ended(1, launcher_failed=True), None, "host_lost", "a: torchrun ended with exit code 1 although none of its"),
        (ended(None, "its supervisor was killed"), None, "host_lost", "a: its supervisor was killed"),
        (ended(1), failed("[Errno 28] No space left on device"), "host_lost", "a: its disk is full"),
        (ended(2), failed("the disk is full", "HostDiskFullError", user=True), "host_lost", "a: its disk is full"),
        (ended(2), failed("the disk is full", "StoreError", user=True), "user_error", ""),
        (ended(75), failed("stopped", "Stopped"), "host_lost", "a: the stage received SIGTERM and saved its state"),
        (ended(75, "cancelled"), failed("stopped", "Stopped"), "interrupted", ""),
    ],
)
def test_what_happened(status: EndedStatus, result: Result | None, kind: str, reason: str) -> None:
    outcome = JobOutcome.of(Ending.of([(A, status)]), result)
    assert outcome.kind == kind
    assert outcome.reason.startswith(reason) and bool(outcome.reason) == bool(reason)
    assert outcome.is_host_lost == (kind == "host_lost")


def test_the_node_that_explains_the_end_speaks_for_all() -> None:
    told = ended(-15, "cancelled")
    assert Ending.of([(A, told), (B, ended(None, "its supervisor was killed"))]).lost == "b: its supervisor was killed"
    ending = Ending.of([(A, told), (B, ended(7))])
    assert (ending.host, ending.code, ending.lost, ending.cancelled) == ("b", 7, None, False)


@pytest.mark.parametrize(
    ("result", "elsewhere", "here"),
    [
        (failed("the disk is full", HostDiskFullError.__name__, user=True), True, False),
        (failed("[Errno 28] No space left on device"), True, False),
        (failed("stopped", "Stopped"), True, True),
        (failed("the disk is full", StoreError.__name__, user=True), False, False),
        (failed(), False, False),
    ],
)
def test_a_full_disk_is_worth_another_attempt_only_where_another_host_can_make_it(
    result: Result, elsewhere: bool, here: bool
) -> None:
    outcome = JobOutcome.of(Ending.of([(A, ended(1))]), result)
    assert outcome.deserves_another_attempt(Requirement(distributed=True)) is elsewhere
    assert outcome.deserves_another_attempt(Requirement(distributed=False)) is here


@pytest.mark.parametrize(
    ("ending", "result", "text", "retries"),
    [
        (Ending(2), failed("row 7 has four options", user=True), "sft: row 7 has four options", False),
        (Ending(1), failed("nan"), "sft: RuntimeError: nan", True),
        (Ending(2, host="a"), failed("it is full", "HostDiskFullError", user=True), "sft on a: it is full", False),
        (
            Ending(7, ("dying",)),
            None,
            "sft ended with exit code 7 without giving a reason. Its last lines:\ndying\n",
            True,
        ),
        (
            Ending(lost="a is gone"),
            None,
            "sft was stopped 4 times, the last time because a is gone. Its last lines:\n",
            True,
        ),
    ],
)
def test_a_failure_says_what_happened(ending: Ending, result: Result | None, text: str, retries: bool) -> None:
    with pytest.raises(dg.Failure) as caught:
        JobOutcome.of(ending, result).success("sft", 4)
    assert (caught.value.description, caught.value.allow_retries) == (text, retries)
    assert JobOutcome.of(Ending(0), MADE).success("sft", 4) == MADE
