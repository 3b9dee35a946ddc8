"""A placement: the hosts of an attempt, and starting it there.

A job on one host takes the host's lease when it starts, in one call. A job on several hosts takes all leases before it
starts anywhere, so that it never holds some hosts while it waits for others. One on a varying number starts as soon as
the fewest are free, on all that are free then: it does not wait for more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import TypeAdapter, ValidationError

from aquarat_core.agent.protocol import LeaseReply, StartReply
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.queueing import HeldLease, Refusal
from aquarat_pipeline.hosts.requirement import processes
from aquarat_pipeline.hosts.teams import teams
from aquarat_pipeline.hosts.transports import HostError
from aquarat_pipeline.jobs import commands
from aquarat_pipeline.jobs.commands import Launch

MAX_HELD = 256
"""Leases that one refusal may name."""
_HELD = TypeAdapter(tuple[HeldLease, ...])


class NoHostError(Exception):
    """No host accepts the job now; the message says why. The step waits and tries again."""

    def __init__(self, reason: str, refused: Mapping[str, Refusal] = MappingProxyType({})) -> None:
        super().__init__(reason)
        self.refused = dict(refused)
        """What the hosts said, by name."""

    @property
    def reason(self) -> str:
        """Without the host's name, if there is only one."""
        return next(iter(self.refused.values())).reason if len(self.refused) == 1 else str(self)


@dataclass(frozen=True, slots=True)
class Placement:
    """The hosts of an attempt, in the order of its nodes; the first is the rendezvous host."""

    launch: Launch
    hosts: tuple[Host, ...]

    @classmethod
    def on_one(cls, launch: Launch, host: Host) -> Placement:
        """On one host, whose lease is taken when the job starts."""
        return cls(launch, (host,))

    @classmethod
    def on_several(cls, launch: Launch, candidates: Iterable[Host]) -> Placement:
        """On hosts of one site, with their leases: on as many as are free, from `need.nodes` to `need.most_nodes`. If
        too few are free at each site, releases all: `NoHostError`."""
        need, refused = launch.need, dict[str, Refusal]()
        for hosts in teams(candidates, need):
            taken: list[Host] = []
            for host in hosts:
                if len(taken) == need.most_nodes:
                    break
                if why := _why_not_reserved(launch, host):
                    refused[host.name] = why
                else:
                    taken.append(host)
            placement = cls(launch, tuple(taken))
            if len(taken) >= need.nodes:
                return placement
            placement.release()
        reasons = "; ".join(f"{host}: {why.reason}" for host, why in refused.items())
        raise NoHostError(f"{need}: {reasons}", refused)

    def start(self) -> None:
        """Starts every node unless it was started before. Raises `NoHostError` at the first refusal."""
        attempt = self.launch.attempt
        attempt.assign([host.name for host in self.hosts])
        for node, host in enumerate(self.hosts):
            # Even if its reply was lost, the host may have started the job: the claim tells.
            if (why := _why_not_started(self.launch, self.hosts, node)) and not attempt.claim(node):
                raise NoHostError(f"{host.name}: {why.reason}", {host.name: why})

    def release(self) -> None:
        """Releases the leases of a job that was not started."""
        for host in self.hosts:
            with suppress(HostError):
                HostAgent(host).stop(commands.job_request(self.launch.attempt, 0))

    def __str__(self) -> str:
        need = self.launch.need
        each = " each" if len(self.hosts) > 1 else ""
        count = f"{processes(need.ranks)}{each} " if need.distributed else ""
        return f"{count}on {', '.join(host.display_name for host in self.hosts)}"


def _why_not_reserved(launch: Launch, host: Host) -> Refusal | None:
    try:
        return _refusal(launch, HostAgent(host).reserve(commands.lease_request(launch, host, 0)))
    except HostError as e:
        return Refusal(str(e))


def _why_not_started(launch: Launch, hosts: Sequence[Host], node: int) -> Refusal | None:
    try:
        return _refusal(launch, HostAgent(hosts[node]).start(commands.start_request(launch, hosts, node)))
    except HostError as e:
        return Refusal(str(e))


def _refusal(launch: Launch, reply: StartReply | LeaseReply) -> Refusal | None:
    if reply["state"] == "busy" or reply["state"] == "full":
        return Refusal(reply["reason"], _held(launch, reply.get("held")))
    return None


def _held(launch: Launch, told: object) -> tuple[HeldLease, ...] | None:
    """The leases that a host names, which may say anything: only those of jobs in the same store can be watched."""
    store = f"{launch.attempt.folder.backend.uri}/jobs/"
    try:
        held = _HELD.validate_python(told)
    except ValidationError:
        return None
    if len(held) > MAX_HELD:
        return None
    return tuple(lease for lease in held if lease.mark.startswith(store))
