"""What the server serves: models by name, and the store whose artifacts the pages show."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from aquarat_core.api import Model
from aquarat_core.artifacts import Artifact
from aquarat_core.serving.worker import Worker

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Served:
    """One model of the server."""

    name: str
    """What clients call it."""
    model: Model
    worker: Worker
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""

    @property
    def artifact(self) -> Artifact | None:
        """The artifact that it was loaded from; None for a folder."""
        return self.model.artifact

    async def run(self, work: Callable[[Model], T]) -> T:
        """The result of `work`, done in the thread that owns torch, in inference mode, between two steps."""
        return await self.worker.run(lambda: work(self.model))


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that routes need."""

    models: Mapping[str, Served]
    """By name, in the order in which they were given."""
    worker: Worker
    store_uri: str
    """The artifact store whose artifacts can be looked at."""
    seconds: float = 600.0
    """Time that one answer may take."""
    send_seconds: float = 60.0
    """A client that takes longer than this to receive a part of a stream is given up."""
