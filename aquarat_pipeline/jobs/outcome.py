"""The outcome of an attempt: how it ended, whether another may succeed, and the failure that Dagster shows."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from aquarat_core.agent.protocol import EndedStatus, Result, ResultError, Succeeded
from aquarat_core.artifacts import StoreError
from aquarat_core.artifacts.errors import HostDiskFullError
from aquarat_core.plain_text import fenced, printable
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.jobs.attempts import Job

Kind = Literal["succeeded", "user_error", "fault", "host_lost", "interrupted"]
"""`fault` is a program fault; `interrupted` means that `cancel.json` ended the job."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt's processes ended. `lost` says why the host, and not the stage, is to blame."""

    code: int | None = None
    last_lines: tuple[str, ...] = ()
    lost: str | None = None
    host: str | None = None
    cancelled: bool = False

    @classmethod
    def of(cls, nodes: Sequence[tuple[Host, EndedStatus]]) -> Ending:
        """Based on the first node that explains the failure; a node that was told to stop does not."""
        blamed = next((n for n in nodes if n[1]["reason"] not in (None, "cancelled")), None)
        failing = [n for n in nodes if n[1]["code"] != 0]
        failed = next((n for n in failing if n[1]["reason"] is None), next(iter(failing), nodes[0]))
        host, status = blamed or failed
        lost = status["reason"] if blamed else _killed(status)
        return cls(
            status["code"],
            tuple(status["tail"]),
            lost and f"{host.name}: {lost}",
            host.name,
            status["reason"] == "cancelled",
        )


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """The outcome of one attempt."""

    kind: Kind
    ending: Ending
    result: Result | None
    """The stage's own `result.json`, if it left one."""
    reason: str = ""
    """For a lost host: why another one may succeed."""

    @classmethod
    def of(cls, ending: Ending, result: Result | None) -> JobOutcome:
        """Combines how the processes ended with the stage's own result."""
        if result and result["ok"]:
            return cls("succeeded" if (ending.code or 0) <= 0 else "fault", ending, result)
        if reason := _why_lost(ending, result):
            return cls("host_lost", ending, result, reason)
        error = _error(result)
        if error and error["user"]:
            return cls("user_error", ending, result)
        return cls("interrupted" if ending.cancelled else "fault", ending, result)

    @property
    def is_host_lost(self) -> bool:
        """Whether the attempt says nothing about the stage, so that another host may succeed."""
        return self.kind == "host_lost"

    @property
    def is_host_gone(self) -> bool:
        """Whether the host itself failed the attempt: it is silent, told to stop or full, and not only one of its
        processes was killed."""
        error = _error(self.result)
        stopped = error is not None and error["type"] == "Stopped"
        return self.is_host_lost and (self.ending.code is None or stopped or _is_disk_full(self.result))

    def deserves_another_attempt(self, need: Requirement) -> bool:
        """Whether another attempt may succeed: not if the only machine that can run the stage has a full disk."""
        return self.is_host_lost and (need.distributed or not _is_disk_full(self.result))

    def success(self, stage: str, attempts: int) -> Succeeded:
        """The stage's result. Raises `dg.Failure` if it has none after `attempts` attempts."""
        if self.kind == "succeeded" and self.result and self.result["ok"] is True:
            return self.result
        raise self._failure(stage, attempts)

    def _failure(self, stage: str, attempts: int) -> dg.Failure:
        lines = "".join(f"{line}\n" for line in self.ending.last_lines)
        metadata = {"last_lines": dg.MetadataValue.md(fenced(lines))}
        if error := _error(self.result):
            text = printable(error["message"] if error["user"] else f"{error['type']}: {error['message']}")
            where = f" on {self.ending.host}" if self.is_host_lost and self.ending.host else ""
            return dg.Failure(f"{stage}{where}: {text}", metadata=metadata, allow_retries=not error["user"])
        how = f"ended with exit code {self.ending.code} without giving a reason"
        if self.is_host_lost:
            how = f"was stopped {attempts} times, the last time because {self.reason}"
        return dg.Failure(f"{stage} {how}. Its last lines:\n{printable(lines)}", metadata=metadata)


def saved_state(job: Job) -> str:
    """A sentence that says from which state a stopped job can continue."""
    result = None
    with suppress(StoreError):
        result = job.result()
    error = _error(result)
    if error and error["type"] == "Stopped":
        return f"The stage was {printable(error['message'])}: run it again to continue from there."
    return "Run it again: it continues from the last state that it saved, or starts over if there is none."


def _why_lost(ending: Ending, result: Result | None) -> str | None:
    if error := _error(result):
        if _is_disk_full(result):
            return f"{ending.host}: its disk is full"
        if error["user"]:
            return None
        if ending.lost is None and not ending.cancelled and error["type"] == "Stopped":
            return f"{ending.host}: the stage received SIGTERM and saved its state"
    return ending.lost


def _is_disk_full(result: Result | None) -> bool:
    """Whether the stage failed because a disk of its host is full, by its own error or the operating system's."""
    error = _error(result)
    if error is None:
        return False
    return error["type"] == HostDiskFullError.__name__ or (
        not error["user"] and os.strerror(errno.ENOSPC) in error["message"]
    )


def _error(result: Result | None) -> ResultError | None:
    return result["error"] if result and result["ok"] is False else None


def _killed(status: EndedStatus) -> str | None:
    """The signal or torchrun fault that ended the job, if any; it is not the stage's fault."""
    code = status["code"] or 0
    if number := status["signal"] or max(0, -code):
        return f"the stage was killed by signal {number}"
    if status.get("launcher_failed") and status["reason"] is None:
        return f"torchrun ended with exit code {status['code']} although none of its ranks had failed"
    return None
