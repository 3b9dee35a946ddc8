"""Which jobs of this control host occupy which hosts: a file for each, from before its start until its end is known.

The worker that starts a job writes the file, and whoever follows the job removes it. So a host is known to be free
again as soon as its job's last status was read from the store, without asking the host. Leases on the hosts decide what
really runs there; these files only spare attempts that would be refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from aquarat_core.agent import processes
from aquarat_pipeline.hosts.records import replace


@dataclass(frozen=True, slots=True)
class Occupied:
    """A job, and what it takes of its hosts."""

    run: str
    step: str
    job: str
    """URI of its folder."""
    hosts: tuple[str, ...]
    """By node."""
    gpus: tuple[int, ...]
    process: dict[str, Any]
    """The worker that follows it; a parked run has a follower instead."""

    @property
    def marks(self) -> list[str]:
        """What identifies its leases on its hosts."""
        return [f"{self.job}#node{node}" for node in range(len(self.hosts))]

    def __str__(self) -> str:
        return f"in use by {self.step} of run {self.run[:8]}"


def occupy(home: Path, name: str, run: str, step: str, job: str, hosts: Sequence[tuple[str, int]]) -> None:
    """Records that the job takes these GPUs of these hosts, followed by this process; `name` is that of its ticket."""
    folder(home).mkdir(parents=True, exist_ok=True)
    me: dict[str, Any] = {**processes.identity(os.getpid())}
    taken = Occupied(run, step, job, tuple(host for host, _ in hosts), tuple(gpus for _, gpus in hosts), me)
    replace(folder(home) / f"{name}.json", asdict(taken))


def vacate(home: Path, name: str) -> None:
    """Records that the job with that ticket has ended, or was not started."""
    with suppress(FileNotFoundError):
        (folder(home) / f"{name}.json").unlink()


def folder(home: Path) -> Path:
    return home / "aquarat" / "occupied"


_OCCUPIED = TypeAdapter(Occupied)
parse_occupied = _OCCUPIED.validate_json
"""Reads a record; raises ValueError."""
