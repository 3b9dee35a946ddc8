"""The jobs of a step: attempts, which a worker that takes over from a dead one finds again.

An attempt is a job folder. `launch.json`, written once before anything starts, holds everything that the control host
decided: the spec with its pinned inputs, and the number of Dagster's retry. `hosts.json` names the hosts that were last
asked to run it. If a host is lost, the step continues in another attempt, with the same spec and the same retry number.

All hosts can write to the folder. Dagster's database therefore also records the attempt's number and the hash of its
record, in a tag of the run: an attempt without such a tag, or whose record has another hash, was made by someone else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypedDict

import dagster as dg

from aquarat_core.agent.protocol import Cancel, Chunk, Claim, Cursor, Hosts, Result, Status
from aquarat_core.artifacts import ArtifactStore, JobDir
from aquarat_core.artifacts.hashing import digest_bytes
from aquarat_core.artifacts.manifest import canonical
from aquarat_core.errors import UserError
from aquarat_core.stages.base import SUPERSEDED, StageSpec
from aquarat_pipeline.tags import DECIDED_TAG

MAX_PLANTED = 20
"""A step gives up after skipping this many folders that others had already filled."""


class ForgedJobError(UserError):
    """A job folder that does not hold what the control host decided; the message names the object."""


class _Decision(TypedDict):
    """The last attempt at a step, as recorded in a tag of the run."""

    number: int
    sha256: str
    """Hash of its `launch.json`."""


class _LaunchRecord(TypedDict):
    """The content of `launch.json`."""

    spec: dict[str, Any]
    retry: int
    events: dict[str, int]


@dataclass(frozen=True, slots=True)
class Job:
    """The folder of one attempt, and the records in it that can be read without trusting it."""

    folder: JobDir

    @property
    def nodes(self) -> list[str]:
        """Names of the hosts that were last asked to run it, the rendezvous host first."""
        found: Hosts | None = self.folder.read_json("hosts.json")
        return found["hosts"] if found else []

    def assign(self, names: list[str]) -> None:
        """Records which hosts will be asked next; must be called before asking them, so that no start is ever
        forgotten."""
        record: Hosts = {"hosts": names}
        self.folder.write_json("hosts.json", record)

    def cancel(self, reason: str) -> None:
        """Tells the supervisors on all hosts to end the job."""
        record: Cancel = {"reason": reason}
        self.folder.create_json("cancel.json", record)

    def claim(self, node: int) -> Claim | None:
        """The claim of the host that started that node's part, or None if it was never started."""
        return self.folder.read_json(f"claim/node{node}.json")

    @property
    def claims(self) -> list[Claim | None]:
        """The claims of all nodes, in order; None for a node that was never started."""
        return [self.claim(node) for node in range(len(self.nodes))]

    def status(self, node: int) -> Status | None:
        """The last heartbeat of that node, or None before the first."""
        return self.folder.read_json(f"status/node{node}.json")

    def result(self) -> Result | None:
        """The stage's own result, if it has written one."""
        return self.folder.read_json("result.json")

    def chunk(self, node: str, number: int) -> Chunk | None:
        """Chunk `number` of the output of `node0`, `node1`, ...; None if it does not exist yet."""
        return self.folder.read_json(f"output/{node}/{number:06d}.json")

    def cursor(self) -> Cursor | None:
        """How many chunks of each node have been shown, or None if none have."""
        return self.folder.read_json("cursor.json")

    def write_cursor(self, shown: Cursor) -> None:
        """Records how many chunks of each node have been shown."""
        self.folder.write_json("cursor.json", shown)


@dataclass(frozen=True, slots=True)
class Attempt(Job):
    """One attempt at one step, with the decisions made when it was created."""

    spec: StageSpec
    retry: int
    """Dagster's retry number of the step; a job is only found again by the same retry."""
    events: dict[str, int]
    """Storage ids of the events that materialized the inputs, by asset."""

    @property
    def spec_sha256(self) -> str:
        """Hash of the spec that the stage must read."""
        return digest_bytes(canonical(self.spec.model_dump(mode="json"))).sha256

    @classmethod
    def create(
        cls, instance: dg.DagsterInstance, store: ArtifactStore, spec: StageSpec, retry: int, events: dict[str, int]
    ) -> Attempt:
        """A new attempt, numbered after the last one on record."""
        decided = _decided(instance, spec.run_id, spec.step_key)
        last = decided["number"] if decided else 0
        for number in range(last + 1, last + 1 + MAX_PLANTED):
            numbered = spec.model_copy(update={"attempt": number})
            record: _LaunchRecord = {"spec": numbered.model_dump(mode="json"), "retry": retry, "events": events}
            mine: _Decision = {"number": number, "sha256": digest_bytes(canonical(record)).sha256}
            # Written before the record itself: a record without a tag is not from this control host.
            instance.add_run_tags(spec.run_id, {DECIDED_TAG + spec.step_key: json.dumps(mine)})
            folder = store.job(spec.run_id, spec.step_key, number)
            if folder.create_json("launch.json", record):
                return cls._of(folder, record)
        raise ForgedJobError(
            f"{store.uri}/jobs/{spec.run_id}/{spec.step_key} has records of {MAX_PLANTED} attempts that this control "
            "host did not make: find out who can write there, and revoke that right"
        )

    @classmethod
    def find(
        cls, instance: dg.DagsterInstance, store: ArtifactStore, run_id: str, step_key: str, retry: int
    ) -> Attempt | None:
        """The attempt that this retry of the step already has, if any. Raises `ForgedJobError` if it was changed."""
        decided = _decided(instance, run_id, step_key)
        if decided is None:
            return None
        folder = store.job(run_id, step_key, decided["number"])
        record: _LaunchRecord | None = folder.read_json("launch.json")
        if record is None:
            return None  # the worker died before it could write the record
        if digest_bytes(canonical(record)).sha256 != decided["sha256"]:
            raise ForgedJobError(
                f"{folder.uri}/launch.json is not what this control host wrote: it was written by someone else, and "
                "nothing was started from it. Find out who can write there, and run the step again"
            )
        return cls._of(folder, record) if record["retry"] == retry else None

    def next(self, instance: dg.DagsterInstance, store: ArtifactStore) -> Attempt:
        """The attempt that continues after this one was lost, with the same inputs.

        From now on, no process of this attempt that may still be running can commit checkpoints or publish.
        """
        self.folder.create_json(SUPERSEDED, {"by": self.spec.attempt + 1})
        return self.create(instance, store, self.spec, self.retry, self.events)

    @classmethod
    def _of(cls, folder: JobDir, record: _LaunchRecord) -> Attempt:
        # The stage only reads spec.json. If a worker died before it wrote that file, launch.json is there.
        if not folder.create_json("spec.json", record["spec"]) and folder.read_json("spec.json") != record["spec"]:
            raise ForgedJobError(
                f"{folder.uri}/spec.json is not what this control host wrote: it was written by someone else, and "
                "nothing was started from it. Find out who can write there, and run the step again"
            )
        return cls(folder, StageSpec.model_validate(record["spec"]), record["retry"], record["events"])


def job_at(uri: str) -> Job | None:
    """The job with that folder; None if garbage collection has removed it."""
    folder = JobDir.at(uri)
    return Job(folder) if folder.read_json("launch.json") is not None else None


def cancel_job(uri: str, reason: str) -> bool:
    """Tells the supervisors of the job at that URI to end it; returns False if it had already ended."""
    job = job_at(uri)
    if job is None:
        return False
    nodes = [job.status(node) for node in range(len(job.nodes))]
    if nodes and all(status and status["state"] == "ended" for status in nodes):
        return False
    job.cancel(reason)
    return True


def _decided(instance: dg.DagsterInstance, run_id: str, step_key: str) -> _Decision | None:
    """Number and hash of the last attempt at the step."""
    run = instance.get_run_by_id(run_id)
    text = run.tags.get(DECIDED_TAG + step_key) if run else None
    return json.loads(text) if text else None
