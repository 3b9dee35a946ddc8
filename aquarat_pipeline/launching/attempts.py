"""Which job serves a step: attempts, found again by a worker that takes over from a dead one.

An attempt is a job folder. `launch.json`, written once before anything starts, holds all that the control host decided:
the spec with its pinned inputs, and for which try of Dagster's it is. `hosts.json` names the hosts that were last asked
to run it. A step whose host was lost goes on in the next attempt, of the same spec and the same try.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aquarat_core.artifacts import ArtifactStore, JobDir
from aquarat_core.stages.base import SUPERSEDED, StageSpec


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one step: its folder, and what was decided when it was made."""

    job: JobDir
    spec: StageSpec
    retry: int
    """Dagster's count of retries of the step; a job is only found again by the same try."""
    events: dict[str, int]
    """Storage ids of the events that materialized the inputs, by asset."""

    @classmethod
    def create(cls, store: ArtifactStore, spec: StageSpec, retry: int, events: dict[str, int]) -> Attempt:
        """A new attempt after the last one there is."""
        number = _last_number(store, spec.run_id, spec.step_key) + 1
        spec = spec.model_copy(update={"attempt": number})
        job = store.job(spec.run_id, spec.step_key, number)
        record = {"spec": spec.model_dump(mode="json"), "retry": retry, "events": events}
        assert job.create_json("launch.json", record), f"two workers serve run {spec.run_id}"
        return cls._of(job, record)

    @classmethod
    def find(cls, store: ArtifactStore, run_id: str, step_key: str, retry: int) -> Attempt | None:
        """The attempt that this try of the step already has, if any."""
        number = _last_number(store, run_id, step_key)
        if not number:
            return None
        job = store.job(run_id, step_key, number)
        record = job.read_json("launch.json")
        return cls._of(job, record) if record["retry"] == retry else None

    @classmethod
    def at(cls, uri: str) -> Attempt | None:
        """The attempt whose folder that is; None where garbage collection has been there."""
        job = JobDir.at(uri)
        record = job.read_json("launch.json")
        return cls._of(job, record) if record else None

    def next(self, store: ArtifactStore) -> Attempt:
        """The attempt that goes on where this one was lost, with the same inputs.

        From now on a process of this one that still runs somewhere commits no checkpoint and publishes nothing.
        """
        self.job.create_json(SUPERSEDED, {"by": self.spec.attempt + 1})
        return self.create(store, self.spec, self.retry, self.events)

    @classmethod
    def _of(cls, job: JobDir, record: dict[str, Any]) -> Attempt:
        # The stage reads spec.json alone; a worker that died before it wrote it left launch.json.
        job.create_json("spec.json", record["spec"])
        return cls(job, StageSpec.model_validate(record["spec"]), record["retry"], record["events"])

    @property
    def nodes(self) -> list[str]:
        """Names of the hosts that were last asked to run it, the first being the rendezvous."""
        return (self.job.read_json("hosts.json") or {"hosts": []})["hosts"]

    def assign(self, names: list[str]) -> None:
        """Writes down who is asked next; before they are asked, so that no start is ever forgotten."""
        self.job.write_json("hosts.json", {"hosts": names})

    def cancel(self, reason: str) -> None:
        """Tells the supervisors, wherever they are, to end the job."""
        self.job.create_json("cancel.json", {"reason": reason})

    @property
    def is_cancelled(self) -> bool:
        return self.job.read_json("cancel.json") is not None

    def claim(self, node: int) -> dict[str, Any] | None:
        """Which host started that node's part, or None if none ever did."""
        return self.job.read_json(f"claim/node{node}.json")

    def status(self, node: int) -> dict[str, Any] | None:
        """The last heartbeat of that node, or None before the first."""
        return self.job.read_json(f"status/node{node}.json")


def cancel_job(uri: str, reason: str) -> bool:
    """Tells the supervisors of the job at that URI to end it; False if it had ended before."""
    attempt = Attempt.at(uri)
    if attempt is None:
        return False
    nodes = [attempt.status(node) for node in range(len(attempt.nodes))]
    if nodes and all(status and status["state"] == "ended" for status in nodes):
        return False
    attempt.cancel(reason)
    return True


def _last_number(store: ArtifactStore, run_id: str, step_key: str) -> int:
    number = 0
    while store.job(run_id, step_key, number + 1).read_json("launch.json") is not None:
        number += 1
    return number
