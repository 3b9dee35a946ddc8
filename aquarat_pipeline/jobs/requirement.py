"""What one job asks of the inventory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aquarat_core.stages.registry import Stage
from aquarat_pipeline.hosts.inventory import Host, InventoryError
from aquarat_pipeline.tags import HOST_TAG, NODES_TAG, POOL_TAG


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
