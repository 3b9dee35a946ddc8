"""Examines a host: what its agent finds, and whether it is what was promised and can run an environment of ours."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from aquarat_core.agent.protocol import DoctorReply, DoctorRequest, Download, Fact, Machine
from aquarat_core.artifacts import JobDir, StoreError
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.settings import REPO_ROOT, store_uri
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.credentials import host_token
from aquarat_pipeline.hosts.environments import UnfitHostError, environments, for_driver
from aquarat_pipeline.hosts.host import Host, RentedHost
from aquarat_pipeline.hosts.transports import HostError

EXAMINE_SECONDS = 180.0
PROBE_BYTES = 32 << 20
MEMORY_SLACK = 0.95
"""Part of the promised memory that the driver must show: it keeps some for itself, and offers round."""


def examine(
    host: Host, *, prepared: bool = True, min_mb_s: float | None = None, checkout: Path = REPO_ROOT
) -> DoctorReply:
    """Facts about the host, and its problems as sentences. Raises `HostError` if it does not answer.

    Without `prepared`, the environment that `prepare` makes there is not examined. With `min_mb_s`, the host also reads
    an object from the store, which must come with so many megabytes a second.
    """
    agent = HostAgent(host)
    machine = agent.machine()
    with _download(host, min_mb_s) as download:
        reply = agent.doctor(_questions(host, prepared, download), seconds=EXAMINE_SECONDS)
    facts: dict[str, Fact] = {
        **reply["facts"],
        "pythons": " ".join(one["version"] for one in machine["pythons"]) or None,
        "libc": machine["libc"],
    }
    problems = [*reply["problems"], *_promises(host, machine)]
    if machine["driver"]:
        try:
            facts["environment"] = for_driver(environments(checkout), machine["driver"]).name
        except UnfitHostError as e:
            problems.append(str(e))
    return {"facts": facts, "problems": problems}


def _promises(host: Host, machine: Machine) -> list[str]:
    """In what a rented host differs from its offer."""
    if not isinstance(host, RentedHost):
        return []
    problems: list[str] = []
    for gpu in machine["gpus"]:
        if host.gpu_kind and not _words(host.gpu_kind) <= _words(gpu["name"]):
            problems.append(f"a {host.gpu_kind} was offered, but the driver shows {gpu['name']}")
        memory = (gpu["memory_mib"] or 0) * (1 << 20) / 1e9
        if host.gpu_memory_gb and memory < MEMORY_SLACK * host.gpu_memory_gb:
            problems.append(
                f"{host.gpu_memory_gb:g} GB of memory were offered for each GPU, but {gpu['name']} has {memory:.0f} GB"
            )
    return list(dict.fromkeys(problems))


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def _questions(host: Host, prepared: bool, download: Download | None) -> DoctorRequest:
    return {
        "name": host.name,
        "interpreter": host.interpreter if prepared else "",
        "download": download,
        "gpus": host.gpus,
        "store": store_uri(),
        "here": host.transport == "local",
        "min_free_bytes": int(host.min_free_gb * 1e9),
        # Only checked if jobs on several hosts are intended: the inventory then says how the hosts reach each other.
        "meeting": (host.network_address, host.rendezvous_port) if host.network_address else None,
        "time": time.time(),
    }


@contextmanager
def _download(host: Host, min_mb_s: float | None) -> Generator[Download | None]:
    """An object in the store for the host to read, with a token for it alone; it is removed afterwards."""
    if min_mb_s is None:
        yield None
        return
    name = f"jobs/doctor/{host.name}/{uuid4().hex}"
    try:
        folder = JobDir(open_backend(store_uri()), name)
        folder.backend.write(f"{name}/probe", os.urandom(PROBE_BYTES))
    except StoreError as e:
        raise HostError(f"{host.name}: the download rate cannot be measured: {e}") from None
    try:
        yield {"folder": folder.uri, "name": "probe", "token": host_token(folder, "doctor"), "min_mb_s": min_mb_s}
    finally:
        with suppress(StoreError):
            folder.backend.delete(f"{name}/probe")
