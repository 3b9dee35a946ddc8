"""The requirements of a job on the hosts that it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aquarat_core.stages.registry import Stage
from aquarat_pipeline.hosts.host import Host, InventoryError
from aquarat_pipeline.hosts.numbers import read_numbers
from aquarat_pipeline.tags import HOST_TAG, NODES_TAG, POOL_TAG


@dataclass(frozen=True, slots=True)
class Requirement:
    """The requirements of a job on the hosts that it runs on."""

    distributed: bool
    """False for a stage that runs on the control host, immediately and without a lease."""
    ranks: int = 1
    """Processes on each host."""
    nodes: int = 1
    """Hosts that it needs, at least."""
    max_nodes: int | None = None
    """Hosts that it takes if so many are free; None for no more than it needs."""
    device: str = "cpu"
    pool: str | None = None
    """A label that the hosts must have."""
    host: str | None = None
    """The only host that is allowed."""

    @classmethod
    def of(cls, stage: Stage, config: Mapping[str, Any] | None, tags: Mapping[str, str]) -> Requirement:
        """Requirements from the stage's config and the run's tags `aquarat/pool`, `aquarat/host` and `aquarat/nodes`,
        which replaces `launch.nodes` and `launch.min_nodes`. Raises `InventoryError` for a tag that is no number."""
        if not stage.distributed:
            return cls(distributed=False)
        launch = (config or {}).get("launch", {})
        most = launch.get("nodes", 1)
        least = launch.get("min_nodes") or most
        if (text := tags.get(NODES_TAG)) is not None:
            try:
                least, most = read_numbers(text)
            except ValueError as e:
                raise InventoryError(f"the run's tag {NODES_TAG} is {text!r}: {e}") from None
        ranks, device = launch.get("nproc", 1), launch.get("device", "auto")
        more = most if most > least else None
        return cls(True, ranks, least, more, device, tags.get(POOL_TAG), tags.get(HOST_TAG))

    @property
    def most_nodes(self) -> int:
        """Hosts that it takes if so many are free."""
        return self.max_nodes or self.nodes

    @property
    def counted(self) -> str:
        """`1`, `2`, `1 to 4`: the number of hosts."""
        return f"{self.nodes}" if self.max_nodes is None else f"{self.nodes} to {self.max_nodes}"

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
        several = self.most_nodes > 1
        hosts = f"{self.counted} hosts" if several else "a host"
        if self.host:
            hosts = f"{f'{self.counted} hosts named' if several else 'the host'} {self.host}"
        pool = f" labeled {self.pool}" if self.pool else ""
        if self.device == "cpu":
            return f"{hosts}{pool} for {processes(self.ranks)}{' each' if several else ''}"
        return f"{hosts}{pool} with {self.ranks} GPU{'s' if self.ranks > 1 else ''}"


def processes(count: int) -> str:
    """`1 process`, `2 processes`."""
    return f"{count} process{'es' if count > 1 else ''}"
