"""What is told to a host's agent: who the job is, what it leases, and the command with its environment."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from aquarat_core.stages.base import SPEC_SHA256
from aquarat_core.stages.command import Meeting, torchrun
from aquarat_core.stages.registry import Stage
from aquarat_pipeline.launching.attempts import Attempt, Job
from aquarat_pipeline.launching.credentials import host_token
from aquarat_pipeline.launching.hosts import Host
from aquarat_pipeline.launching.placement import Requirement

GB = 1_000_000_000


def identity(job: Job, node: int) -> dict[str, Any]:
    """How the agent knows one node's part of the job; the id also names its directory and must stay short."""
    uri = job.folder.uri
    return {"id": hashlib.sha256(uri.encode()).hexdigest()[:16], "job": uri, "node": node, "mark": f"{uri}#node{node}"}


def lease(attempt: Attempt, stage: Stage, host: Host, need: Requirement, node: int) -> dict[str, Any]:
    """What the job wants of one host."""
    return {
        **identity(attempt, node),
        "owner": attempt.spec.run_id,
        "step": stage.name,
        "host": host.name,
        "gpus": need.gpus_on(host) if need.distributed else 0,
        "host_gpus": host.gpus,
        "max_leases": host.max_leases if need.distributed else None,
        "ttl": host.lease_seconds,
    }


def start(
    attempt: Attempt,
    stage: Stage,
    hosts: Sequence[Host],
    node: int,
    need: Requirement,
    *,
    program: Sequence[str],
    messages: Mapping[str, str],
) -> dict[str, Any]:
    """The whole order to start node `node` of the job; `messages` is the environment that Pipes asks for."""
    host = hosts[node]
    here = host.transport == "local"
    order = lease(attempt, stage, host, need, node)
    return order | {
        "argv": _argv(attempt, hosts, node, need, program),
        "env": {
            **_environment(attempt, hosts, node, need),
            "AQUARAT_GRACE_SECONDS": f"{host.grace_seconds:g}",
            **messages,
        },
        "inherit": here,
        "cwd": os.getcwd() if here else None,
        "ranks": need.distributed,
        "token": host_token(attempt),
        "heartbeat": host.heartbeat_seconds,
        "grace": host.grace_seconds,
        "min_free_bytes": int(host.min_free_gb * GB),
    }


def interpreter(host: Host) -> str:
    """The Python that has the project there."""
    return host.python or (sys.executable if host.transport == "local" else f"{host.root}/env/bin/python")


def _argv(attempt: Attempt, hosts: Sequence[Host], node: int, need: Requirement, program: Sequence[str]) -> list[str]:
    python = [interpreter(hosts[node]), "-u"]
    run = [*program, f"{attempt.folder.uri}/spec.json"]
    if not need.distributed:
        return [*python, *run]
    meeting = None
    if need.nodes > 1:
        address = hosts[node].rendezvous.rpartition(":")[0]
        meeting = Meeting(need.nodes, node, hosts[0].rendezvous, identity(attempt, 0)["id"], address)
    return torchrun(run, need.ranks, "{scratch}", python, meeting=meeting, tee=True)


def _environment(attempt: Attempt, hosts: Sequence[Host], node: int, need: Requirement) -> dict[str, str]:
    host = hosts[node]
    env = {
        SPEC_SHA256: attempt.spec_sha256,
        "OMP_NUM_THREADS": str(((attempt.spec.config or {}).get("launch") or {}).get("threads", 1)),
    }
    if need.nodes > 1 and host.network_interface:
        env |= {"GLOO_SOCKET_IFNAME": host.network_interface, "NCCL_SOCKET_IFNAME": host.network_interface}
    env |= host.env
    return env | {name: os.environ[name] for name in host.forward if name in os.environ}
