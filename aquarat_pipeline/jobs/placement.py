"""Where a job runs: what it needs, which hosts could give it, and waiting in line for them.

A shortage never fails a run: it waits, and says for what. Whoever waits longest is served first: a waiting step leaves
a ticket in DAGSTER_HOME, and a host is only tried by the oldest ticket that could use it. Tickets are a courtesy among
the workers of one control host; what decides are the leases on the hosts.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aquarat_core.agent import processes
from aquarat_core.stages.registry import Stage
from aquarat_pipeline.hosts.inventory import Host, InventoryError, read_inventory
from aquarat_pipeline.tags import HOST_TAG, NODES_TAG, POOL_TAG

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
REMIND_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Requirement:
    """What one job asks of the inventory."""

    distributed: bool
    """False for what runs on the control host itself, at once and without a place of its own."""
    ranks: int = 1
    """Processes on each host."""
    nodes: int = 1
    device: str = "cpu"
    pool: str | None = None
    """A label that the hosts must carry."""
    host: str | None = None
    """The one host that will do."""

    @classmethod
    def of(cls, stage: Stage, config: Mapping[str, Any] | None, tags: Mapping[str, str]) -> Requirement:
        """From the stage's config and the run's tags `aquarat/pool`, `aquarat/host`, `aquarat/nodes`."""
        if not stage.distributed:
            return cls(distributed=False)
        launch = (config or {}).get("launch", {})
        nodes = tags.get(NODES_TAG, "1")
        if not nodes.isdecimal() or not int(nodes):
            raise InventoryError(f"the run's tag {NODES_TAG} is {nodes!r}: write the number of hosts")
        ranks, device = launch.get("nproc", 1), launch.get("device", "auto")
        return cls(True, ranks, int(nodes), device, tags.get(POOL_TAG), tags.get(HOST_TAG))

    def gpus_on(self, host: Host) -> int:
        """GPUs that the job takes there: one a rank, none where it runs on the processor."""
        return self.ranks if self.device == "cuda" or (self.device == "auto" and host.gpus) else 0

    def fits(self, host: Host) -> bool:
        """Whether the host could ever serve it."""
        if self.host is not None and host.name != self.host:
            return False
        if self.pool is not None and self.pool not in host.labels:
            return False
        return self.gpus_on(host) <= host.gpus

    def __str__(self) -> str:
        each = f"{self.ranks} {'ranks' if self.device == 'cpu' else 'GPUs'}"
        count = "a host" if self.nodes == 1 else f"{self.nodes} hosts"
        pool = f" labelled {self.pool}" if self.pool else ""
        return f"{count}{f' {self.host}' if self.host else ''}{pool} with {each}"


class Waiting:
    """Says what a step waits for: when it begins to wait, when that changes, and every five minutes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said = ""
        self._when = 0.0

    def __call__(self, why: str) -> None:
        if why != self._said or time.monotonic() - self._when > REMIND_SECONDS:
            self._say(f"Waiting for {why}")
            self._said, self._when = why, time.monotonic()


@contextmanager
def ticket(home: Path, name: str, since: float) -> Iterator[Path]:
    """A place in line, by `since` (a run's creation time); it is worth nothing once its process is gone."""
    directory = home / "aquarat" / "queue"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{since:017.3f}-{name}.json"
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def candidates(home: Path, need: Requirement, mine: Path, avoid: set[str]) -> tuple[list[Host], str]:
    """The hosts that this ticket may try now, cheapest first, and why there are too few if there are.

    A host in `avoid` (it just failed this job) is tried only if no other could serve.
    """
    try:
        hosts = read_inventory(home).hosts
    except InventoryError as e:
        return [], f"a usable inventory: {e}"
    fitting = [host for host in hosts if need.fits(host)]
    if len(fitting) < need.nodes:
        return [], f"{need}: hosts.yaml has {len(fitting)} such; add one, or change what the run asks for"
    rested = [host for host in fitting if host.name not in avoid]
    fitting = rested if len(rested) >= need.nodes else fitting
    # Written before the others' are read: of two that come at once at least one sees the other.
    _write_ticket(mine, [host.name for host in fitting])
    wanted = _wanted_by_older(mine)
    free = [host for host in fitting if host.name not in wanted]
    if len(free) < need.nodes:
        return [], f"{need}: others were first in line"
    return sorted(free, key=lambda host: (host.price_per_hour, host.gpus, host.name)), ""


def _write_ticket(path: Path, hosts: list[str]) -> None:
    processes.write_durably(path, {"hosts": hosts, "process": processes.identity(os.getpid())})


def _wanted_by_older(mine: Path) -> set[str]:
    """Hosts that a living ticket before this one could use."""
    wanted: set[str] = set()
    for path in sorted(mine.parent.glob("*.json")):
        if path.name >= mine.name:
            break
        with suppress(FileNotFoundError):
            try:
                found = json.loads(path.read_text())
                process, hosts = found["process"], set(map(str, found["hosts"]))
            except (ValueError, RecursionError, TypeError, KeyError) as e:
                # Tickets are written whole: what cannot be read is what a power cut left, and nobody waits behind it.
                log.warning("the place in line %s cannot be read (%s): it is removed", path, e)
                process, hosts = {}, set()
            if processes.is_alive(process):
                wanted.update(hosts)
            else:
                path.unlink()
    return wanted
