"""What training asks of the stage that it runs in; `stages.base.StageContext` is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from aquarat_core.checkpointing import WorkArea


class RunDescription(Protocol):
    """What the record of a run says about its origin."""

    stage: str
    profile: str
    config: Mapping[str, Any] | None
    inputs: Mapping[str, Any]
    code: Any
    run_id: str


class RunContext(Protocol):
    """The stage around a training run, on one rank."""

    spec: RunDescription
    rank: int
    recorddir: Path
    """Where rank 0 leaves what is published beside the artifact."""
    wandb: dict[str, str | None] | None
    """Set to where the W&B run is."""
    work: WorkArea | None
    """Where unfinished state is kept; None keeps none."""

    def progress(self, done: int, total: int, unit: str = "steps", **metrics: float) -> None:
        """Tell whoever watches how far the run is."""

    def log(self, text: str) -> None:
        """One line to the stage's log, from rank 0."""
