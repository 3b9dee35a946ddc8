"""Builds the requests to a host's agent: the job's identity, its lease, and the command with its environment."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aquarat_core.agent.protocol import JobRequest, LeaseRequest, RenewRequest, StartRequest, TailRequest, Token
from aquarat_core.artifacts.environment import PRICE
from aquarat_core.stages.base import SPEC_SHA256
from aquarat_core.stages.command import Meeting, torchrun
from aquarat_core.stages.registry import Stage
from aquarat_pipeline.hosts.credentials import host_token
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.jobs.attempts import Attempt, Job

GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start, independent of the hosts."""

    attempt: Attempt
    stage: Stage
    need: Requirement
    program: Sequence[str]
    """Arguments of Python; the URI of the spec follows."""
    pipes_env: Mapping[str, str]
    """The environment variables for Dagster Pipes."""


def job_request(job: Job, node: int) -> JobRequest:
    """Identifies one node's part of the job for the agent; the id also names its directory and must stay short."""
    uri = job.folder.uri
    return {"id": hashlib.sha256(uri.encode()).hexdigest()[:16], "job": uri, "node": node, "mark": f"{uri}#node{node}"}


def tail_request(job: Job, node: int, lines: int) -> TailRequest:
    """A request for the last `lines` lines of that node's logs."""
    return {**job_request(job, node), "lines": lines}


def renew_request(job: Job, node: int, token: Token) -> RenewRequest:
    """A request that gives the job on that node a new token."""
    return {**job_request(job, node), "token": token}


def lease_request(launch: Launch, host: Host, node: int) -> LeaseRequest:
    """The resources that the job needs on one host."""
    need = launch.need
    return {
        **job_request(launch.attempt, node),
        "owner": launch.attempt.spec.run_id,
        "step": launch.stage.name,
        "host": host.name,
        "gpus": need.gpus_on(host) if need.distributed else 0,
        "host_gpus": host.gpus,
        "max_leases": host.max_leases if need.distributed else None,
        "ttl": host.lease_seconds,
    }


def start_request(launch: Launch, hosts: Sequence[Host], node: int) -> StartRequest:
    """Everything that node `node` of the job needs to start. Raises `HostError` if no token is available for it."""
    host = hosts[node]
    here = host.transport == "local"
    return {
        **lease_request(launch, host, node),
        "argv": _argv(launch, hosts, node),
        "env": {
            **_environment(launch, hosts, node),
            "AQUARAT_GRACE_SECONDS": f"{host.grace_seconds:g}",
            **launch.pipes_env,
        },
        "inherit": here,
        "cwd": os.getcwd() if here else None,
        "ranks": launch.need.distributed,
        "token": host_token(launch.attempt.folder, launch.attempt.spec.stage),
        "heartbeat": host.heartbeat_seconds,
        "grace": host.grace_seconds,
        "min_free_bytes": int(host.min_free_gb * GB),
    }


def _argv(launch: Launch, hosts: Sequence[Host], node: int) -> list[str]:
    need = launch.need
    python = [hosts[node].interpreter, "-u"]
    run = [*launch.program, f"{launch.attempt.folder.uri}/spec.json"]
    if not need.distributed:
        return [*python, *run]
    meeting = None
    if len(hosts) > 1:
        address = hosts[node].rendezvous.rpartition(":")[0]
        meeting = Meeting(len(hosts), node, hosts[0].rendezvous, job_request(launch.attempt, 0)["id"], address)
    return torchrun(run, need.ranks, "{scratch}", python, meeting=meeting, tee=True)


def _environment(launch: Launch, hosts: Sequence[Host], node: int) -> dict[str, str]:
    host = hosts[node]
    launched: dict[str, Any] = (launch.attempt.spec.config or {}).get("launch") or {}
    env = {
        SPEC_SHA256: launch.attempt.spec_sha256,
        "OMP_NUM_THREADS": str(launched.get("threads", 1)),
    }
    if len(hosts) > 1 and host.network_interface:
        env |= {"GLOO_SOCKET_IFNAME": host.network_interface, "NCCL_SOCKET_IFNAME": host.network_interface}
    if price := sum(one.price_per_hour for one in hosts):
        env[PRICE] = repr(price)
    env |= host.env
    return env | {name: os.environ[name] for name in host.forward if name in os.environ}
