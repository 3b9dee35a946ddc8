"""Which job serves a step: attempts, found again by a worker that takes over from a dead one.

An attempt is a job folder. `launch.json`, written once before anything starts, holds all that the control host decided:
the spec with its pinned inputs, and for which try of Dagster's it is. `hosts.json` names the hosts that were last asked
to run it. A step whose host was lost goes on in the next attempt, of the same spec and the same try.

The folder lies where every host may write. So what was decided is also in Dagster's database, as its number and hash in
a tag of the run: an attempt that is not there, or whose record has another hash, was made by somebody else.
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
"""How many folders that others filled beforehand a step skips before it gives up."""


class ForgedJobError(UserError):
    """A job's folder that does not hold what the control host decided; the message names the object."""


class _Decision(TypedDict):
    """In a tag of the run: the last attempt at a step."""

    number: int
    sha256: str
    """Of its `launch.json`."""


class _LaunchRecord(TypedDict):
    """`launch.json`."""

    spec: dict[str, Any]
    retry: int
    events: dict[str, int]


@dataclass(frozen=True, slots=True)
class Job:
    """The folder of one attempt, and what can be read from it without trusting it."""

    folder: JobDir

    @property
    def nodes(self) -> list[str]:
        """Names of the hosts that were last asked to run it, the first being the rendezvous."""
        found: Hosts | None = self.folder.read_json("hosts.json")
        return found["hosts"] if found else []

    def assign(self, names: list[str]) -> None:
        """Records which hosts are asked next; before they are asked, so that no start is ever forgotten."""
        record: Hosts = {"hosts": names}
        self.folder.write_json("hosts.json", record)

    def cancel(self, reason: str) -> None:
        """Tells the supervisors, wherever they are, to end the job."""
        record: Cancel = {"reason": reason}
        self.folder.create_json("cancel.json", record)

    def claim(self, node: int) -> Claim | None:
        """Which host started that node's part, or None if none ever did."""
        return self.folder.read_json(f"claim/node{node}.json")

    @property
    def claims(self) -> list[Claim | None]:
        """The claims of all nodes, in order; None for a node that was never started."""
        return [self.claim(node) for node in range(len(self.nodes))]

    def status(self, node: int) -> Status | None:
        """The last heartbeat of that node, or None before the first."""
        return self.folder.read_json(f"status/node{node}.json")

    def result(self) -> Result | None:
        """What the stage says of its end, if it has said it."""
        return self.folder.read_json("result.json")

    def chunk(self, node: str, number: int) -> Chunk | None:
        """The chunk of that number of the output of `node0`, `node1`, ...; None before it is there."""
        return self.folder.read_json(f"output/{node}/{number:06d}.json")

    def cursor(self) -> Cursor | None:
        """How many chunks of each node were shown, or None if none were."""
        return self.folder.read_json("cursor.json")

    def write_cursor(self, shown: Cursor) -> None:
        """Records how many chunks of each node are shown."""
        self.folder.write_json("cursor.json", shown)


@dataclass(frozen=True, slots=True)
class Attempt(Job):
    """One attempt at one step, with what was decided when it was made."""

    spec: StageSpec
    retry: int
    """Dagster's count of retries of the step; a job is only found again by the same try."""
    events: dict[str, int]
    """Storage ids of the events that materialized the inputs, by asset."""

    @property
    def spec_sha256(self) -> str:
        """Hash of the spec that the stage must find."""
        return digest_bytes(canonical(self.spec.model_dump(mode="json"))).sha256

    @classmethod
    def create(
        cls, instance: dg.DagsterInstance, store: ArtifactStore, spec: StageSpec, retry: int, events: dict[str, int]
    ) -> Attempt:
        """A new attempt after the last one that was decided."""
        decided = _decided(instance, spec.run_id, spec.step_key)
        last = decided["number"] if decided else 0
        for number in range(last + 1, last + 1 + MAX_PLANTED):
            numbered = spec.model_copy(update={"attempt": number})
            record: _LaunchRecord = {"spec": numbered.model_dump(mode="json"), "retry": retry, "events": events}
            mine: _Decision = {"number": number, "sha256": digest_bytes(canonical(record)).sha256}
            # Before the record itself: a record without a tag was not written by this control host.
            instance.add_run_tags(spec.run_id, {DECIDED_TAG + spec.step_key: json.dumps(mine)})
            folder = store.job(spec.run_id, spec.step_key, number)
            if folder.create_json("launch.json", record):
                return cls._of(folder, record)
        raise ForgedJobError(
            f"{store.uri}/jobs/{spec.run_id}/{spec.step_key} has records for {MAX_PLANTED} attempts that this control "
            "host did not make: find out who may write there, and take the right away"
        )

    @classmethod
    def find(
        cls, instance: dg.DagsterInstance, store: ArtifactStore, run_id: str, step_key: str, retry: int
    ) -> Attempt | None:
        """The attempt that this try of the step already has, if any. Raises `ForgedJobError` for a changed one."""
        decided = _decided(instance, run_id, step_key)
        if decided is None:
            return None
        folder = store.job(run_id, step_key, decided["number"])
        record: _LaunchRecord | None = folder.read_json("launch.json")
        if record is None:
            return None  # the worker that decided it died before it could write it
        if digest_bytes(canonical(record)).sha256 != decided["sha256"]:
            raise ForgedJobError(
                f"{folder.uri}/launch.json is not what this control host decided: somebody else wrote it, and nothing "
                "was started from it. Find out who may write there, and run the step again"
            )
        return cls._of(folder, record) if record["retry"] == retry else None

    def next(self, instance: dg.DagsterInstance, store: ArtifactStore) -> Attempt:
        """The attempt that goes on where this one was lost, with the same inputs.

        From now on a process of this one that still runs somewhere commits no checkpoint and publishes nothing.
        """
        self.folder.create_json(SUPERSEDED, {"by": self.spec.attempt + 1})
        return self.create(instance, store, self.spec, self.retry, self.events)

    @classmethod
    def _of(cls, folder: JobDir, record: _LaunchRecord) -> Attempt:
        # The stage reads spec.json alone; a worker that died before it wrote it left launch.json.
        if not folder.create_json("spec.json", record["spec"]) and folder.read_json("spec.json") != record["spec"]:
            raise ForgedJobError(
                f"{folder.uri}/spec.json is not what this control host decided: somebody else wrote it, and nothing "
                "was started from it. Find out who may write there, and run the step again"
            )
        return cls(folder, StageSpec.model_validate(record["spec"]), record["retry"], record["events"])


def job_at(uri: str) -> Job | None:
    """The job whose folder that is; None where garbage collection has been there."""
    folder = JobDir.at(uri)
    return Job(folder) if folder.read_json("launch.json") is not None else None


def cancel_job(uri: str, reason: str) -> bool:
    """Tells the supervisors of the job at that URI to end it; False if it had ended before."""
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
