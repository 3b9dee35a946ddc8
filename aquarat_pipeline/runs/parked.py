"""What is done for one parked run: its job's heartbeat and output are read, or the answer to its ticket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import dagster as dg

from aquarat_core.artifacts import JobDir
from aquarat_core.plain_text import printable
from aquarat_pipeline._compat import AssetObservationData, DagsterEvent
from aquarat_pipeline.hosts.credentials import RENEW_SECONDS
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.inventory import local_host, read_inventory
from aquarat_pipeline.hosts.occupancy import vacate
from aquarat_pipeline.hosts.queueing import Answer, WaitReporter, queue
from aquarat_pipeline.jobs.attempts import Job
from aquarat_pipeline.jobs.parking import Parked
from aquarat_pipeline.jobs.progress import Message
from aquarat_pipeline.jobs.running import renew_tokens
from aquarat_pipeline.jobs.telling import Teller

HEARTBEAT_SECONDS = 5.0
REST_SECONDS = 10.0
"""Before another worker is started for a run whose last one died at once."""


class Followed(Protocol):
    """A parked run. `look` may take its time, and runs in a thread."""

    def is_due(self, now: float) -> bool:
        """Whether it is time to look."""
        ...

    def look(self) -> bool:
        """Whether the run needs a worker."""
        ...

    def rest(self, now: float) -> None:
        """Do not look for some seconds."""
        ...


class FollowedWait:
    """A run whose step waits for hosts; `answers` are the allocator's, by ticket."""

    def __init__(
        self, instance: dg.DagsterInstance, run: dg.DagsterRun, record: Parked, answers: Mapping[str, Answer]
    ) -> None:
        self._instance, self._run, self._record, self._answers = instance, run, record, answers
        self._ticket = queue(Path(instance.root_directory)) / f"{record.ticket}.json"
        self._report = WaitReporter(self._say)
        self._seen: Answer | None = None
        self._not_before = self._next = float("-inf")

    def is_due(self, now: float) -> bool:
        if now < self._not_before:
            return False
        answer = self._answers.get(self._record.ticket)
        if answer != self._seen or (answer and answer.hosts) or now >= self._next:
            self._next = now + 60.0
            return True
        return False

    def look(self) -> bool:
        if not self._ticket.exists():
            return True  # a power cut may have taken it; a worker makes another
        self._seen = answer = self._answers.get(self._record.ticket)
        if answer and answer.why:
            self._report(answer.why)
        return answer is not None and bool(answer.hosts)

    def rest(self, now: float) -> None:
        self._not_before = now + REST_SECONDS

    def _say(self, text: str) -> None:
        key = dg.AssetKey(list(self._record.asset))
        self._instance.report_engine_event(text, self._run, step_key=key.to_python_identifier())


class FollowedJob:
    """A run whose job runs: its progress is told to Dagster, its lines go into the log of its worker.

    The run needs a worker when the job has ended, is silent, or says something that only a step can handle.
    """

    def __init__(
        self, instance: dg.DagsterInstance, run: dg.DagsterRun, record: Parked, now: Callable[[], float]
    ) -> None:
        assert record.job is not None
        self._job = Job(JobDir.at(record.job))
        self._record, self._now = record, now
        self._home = Path(instance.root_directory)
        self._teller = Teller(_Step(instance, run, dg.AssetKey(list(record.asset))), now)
        self._log = self._home / "aquarat" / "workers" / f"{run.run_id}.log"
        self._statuses: list[Any] = [None] * len(record.hosts)
        self._changed = [now()] * len(record.hosts)
        self._shown: dict[str, int] | None = None
        self._tokens: dict[int, str] = {}
        self._renewed = self._due = now()
        self._hosts: list[Host] | None = None

    def is_due(self, now: float) -> bool:
        if now < self._due:
            return False
        self._due = now + HEARTBEAT_SECONDS
        return True

    def rest(self, now: float) -> None:
        self._due = now + REST_SECONDS

    def look(self) -> bool:
        if self._now() - self._renewed >= RENEW_SECONDS:
            self._renewed = self._now()
            renew_tokens(self._job, self._record.stage, self._known(), self._tokens)
        reasons = [self._look(node) for node in range(len(self._record.hosts))]
        if all(status and status["state"] == "ended" for status in self._statuses):
            # Its leases have ended before: the next job need not wait until a worker is there for this one.
            vacate(self._home, self._record.ticket)
        return any(reasons)

    def _look(self, node: int) -> bool:
        status = self._job.status(node)
        if status != self._statuses[node]:
            self._statuses[node], self._changed[node] = status, self._now()
        silence = 3 * self._known()[node].heartbeat_seconds + 1
        if self._now() - self._changed[node] > silence or (status and status["state"] == "ended"):
            return True
        return status is not None and self._show(f"node{node}", status["chunks"])

    def _show(self, node: str, chunks: int) -> bool:
        """Shows the output so far; whether there is something that only a step can handle."""
        if self._shown is None:
            self._shown = {f"node{k}": 0 for k in range(len(self._record.hosts))} | (self._job.cursor() or {})
        while self._shown[node] < chunks:
            chunk = self._job.chunk(node, self._shown[node] + 1)
            if chunk is None:
                return False
            if not all(_is_silent(message) or _progress(message) for message in chunk["messages"]):
                return True
            told = [progress for message in chunk["messages"] if (progress := _progress(message))]
            self._shown[node] += 1
            # Before it is shown, so that no line is shown twice.
            self._job.write_cursor(self._shown)
            prefix = "" if node == "node0" else f"{node}: "
            if chunk["lines"]:
                with self._log.open("a") as out:
                    out.writelines(f"{prefix}{printable(line)}\n" for line in chunk["lines"])
            for progress in told:
                self._teller(progress)
        return False

    def _known(self) -> list[Host]:
        """The job's hosts; one that is no longer in the inventory with the defaults."""
        if self._hosts is None:
            local = local_host(self._home)
            known = {host.name: host for host in (local, *read_inventory(self._home).hosts)}
            self._hosts = [known.get(name) or local.model_copy(update={"name": name}) for name in self._record.hosts]
        return self._hosts


def _is_silent(message: Mapping[str, Any]) -> bool:
    """Whether it only says that the stage's process has opened or closed its side."""
    return message["method"] in ("opened", "closed")


def _progress(message: Mapping[str, Any]) -> Message | None:
    """The progress that a message tells; None for any other."""
    params = cast("dict[str, object]", message["params"] or {})
    payload = params.get("payload")
    if isinstance(payload, dict) and cast("dict[str, object]", payload).get("aquarat") == "progress":
        return cast("Message", payload)
    return None


@dataclass(frozen=True, slots=True)
class _Step:
    """The step of a parked run, of which a `Teller` tells."""

    instance: dg.DagsterInstance
    run: dg.DagsterRun
    asset_key: dg.AssetKey

    def log_event(self, event: dg.AssetObservation) -> None:
        told = DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_OBSERVATION.value,
            job_name=self.run.job_name,
            step_key=self.asset_key.to_python_identifier(),
            event_specific_data=AssetObservationData(event),
        )
        self.instance.report_dagster_event(told, self.run.run_id)
