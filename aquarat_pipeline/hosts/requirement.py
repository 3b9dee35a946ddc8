"""The requirements of a job on the hosts that it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aquarat_core.stages.registry import Stage
from aquarat_pipeline.hosts.host import Host, InventoryError
from aquarat_pipeline.tags import HOST_TAG, NODES_TAG, POOL_TAG


@dataclass(frozen=True, slots=True)
class Requirement:
    """The requirements of a job on the hosts that it runs on."""

    distributed: bool
    """False for a stage that runs on the control host, immediately and without a lease."""
    ranks: int = 1
    """Processes on each host."""
    nodes: int = 1
    device: str = "cpu"
    pool: str | None = None
    """A label that the hosts must have."""
    host: str | None = None
    """The only host that is allowed."""

    @classmethod
    def of(cls, stage: Stage, config: Mapping[str, Any] | None, tags: Mapping[str, str]) -> Requirement:
        """Requirements from the stage's config and the run's tags `aquarat/pool`, `aquarat/host`, `aquarat/nodes`."""
        if not stage.distributed:
            return cls(distributed=False)
        launch = (config or {}).get("launch", {})
        nodes = tags.get(NODES_TAG, "1")
        if not nodes.isdecimal() or not int(nodes):
            raise InventoryError(f"the run's tag {NODES_TAG} is {nodes!r}: write the number of hosts")
        ranks, device = launch.get("nproc", 1), launch.get("device", "auto")
        return cls(True, ranks, int(nodes), device, tags.get(POOL_TAG), tags.get(HOST_TAG))

    def gpus_on(self, host: Host) -> int:
        """Number of GPUs that the job uses there: one per rank, or none if it runs on the CPU."""
        return self.ranks if self.device == "cuda" or (self.device == "auto" and host.gpus) else 0

    def fits(self, host: Host) -> bool:
        """Whether the host can run the job when it is free."""
        if self.host is not None and host.name != self.host:
            return False
        if self.pool is not None and self.pool not in host.labels:
            return False
        return self.gpus_on(host) <= host.gpus

    def __str__(self) -> str:
        hosts = "a host" if self.nodes == 1 else f"{self.nodes} hosts"
        if self.host:
            hosts = f"{'the host' if self.nodes == 1 else f'{self.nodes} hosts named'} {self.host}"
        pool = f" labeled {self.pool}" if self.pool else ""
        if self.device == "cpu":
            return f"{hosts}{pool} for {processes(self.ranks)}{' each' if self.nodes > 1 else ''}"
        return f"{hosts}{pool} with {self.ranks} GPU{'s' if self.ranks > 1 else ''}"


def processes(count: int) -> str:
    """`1 process`, `2 processes`."""
    return f"{count} process{'es' if count > 1 else ''}"
