"""A look at a rented host that is in use: which runs hold GPUs there, and whether it lives.

A host that does not answer ssh may still train: then the heartbeats of its jobs, in the store, are its signs of life.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from aquarat_core.agent.protocol import ListedLease, Status
from aquarat_core.errors import UserError
from aquarat_core.settings import store_uri
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.host import RentedHost
from aquarat_pipeline.hosts.transports import HostKeyError
from aquarat_pipeline.renting.managed.acceptance import Arming

MAX_OWNER = 100
"""Characters of a run's id."""
MAX_RUNS = 100
"""On one host."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What one look found."""

    alive: bool
    runs: Mapping[str, int] | None = None
    """Which runs use how many GPUs; None if the host did not say."""
    drained: bool = False
    """No job is there, and none can begin."""
    heartbeats: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of the last heartbeat of each job of the host that the store has."""
    unfit: str | None = None
    why: str = ""


def feel(
    host: RentedHost, arming: Arming, runs: Sequence[str], before: Pulse | None, drain: tuple[str, bool] | None
) -> Pulse:
    """Renews the host's switch and asks for its leases. With `drain`, a reason and whether to stop what runs there, it
    also keeps new jobs away. `runs` are those that it was last known to serve. Never raises for what a host does."""
    try:
        agent = HostAgent(host)
        if fired := arming.on(host):
            return Pulse(True, unfit=fired)
        if drain is None:
            return Pulse(True, runs_of(agent.leases()["leases"]))
        reply = agent.drain(drain[0], stop=drain[1])
        nobody = not reply["leases"] and not reply["supervisors"]
        return Pulse(True, runs_of(reply["leases"]), nobody)
    except HostKeyError as e:
        return Pulse(False, unfit=f"its host key is not the one that was pinned: {e}", why=str(e))
    except Exception as e:
        # Also an answer of another form than an agent's is no sign of life.
        beats = heartbeats(host, runs)
        moved = before is not None and any(beats[job] != before.heartbeats.get(job, beats[job]) for job in beats)
        return Pulse(moved, heartbeats=beats, why=str(e))


def runs_of(leases: Sequence[ListedLease]) -> dict[str, int]:
    """The number of GPUs by run. Raises `ValueError` for what no agent of ours says."""
    runs: dict[str, int] = {}
    for lease in leases:
        owner = cast(Any, lease["owner"])
        if not isinstance(owner, str) or len(owner) > MAX_OWNER or len(runs) >= MAX_RUNS:
            raise ValueError("its agent tells of leases that cannot be true")
        runs[lease["owner"]] = runs.get(lease["owner"], 0) + len(lease["gpus"])
    return runs


def heartbeats(host: RentedHost, runs: Sequence[str]) -> dict[str, int]:
    """The number of the last heartbeat of each of the runs' jobs on that host. Empty if the store does not answer."""
    from aquarat_core.artifacts import JobDir, RecordError
    from aquarat_core.artifacts.backends import open_backend

    found: dict[str, int] = {}
    with suppress(UserError):
        backend = open_backend(store_uri())
        for run in runs:
            for key in backend.keys(f"jobs/{run}/"):
                folder, _, name = key.rpartition("/status/")
                if not name.startswith("node"):
                    continue
                with suppress(RecordError, KeyError, TypeError):  # the host itself writes it
                    status: Status | None = JobDir(backend, folder).read_json(f"status/{name}")
                    if status and status["host"] == host.name:
                        found[key] = status["sequence"]
    return found
