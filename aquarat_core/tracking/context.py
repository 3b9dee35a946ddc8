"""What a run needs from the stage that it belongs to; `stages.base.StageContext` provides it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from aquarat_core.checkpointing import CheckpointStore


class RunDescription(Protocol):
    """What the record of a run says about its origin."""

    @property
    def stage(self) -> str: ...
    @property
    def profile(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any] | None: ...
    @property
    def inputs(self) -> Mapping[str, Any]: ...
    @property
    def code(self) -> Any: ...
    @property
    def run_id(self) -> str: ...


class RunContext(Protocol):
    """The stage around a training run, on one rank."""

    wandb: dict[str, str | None] | None
    """Set to where the W&B run is."""

    @property
    def spec(self) -> RunDescription: ...
    @property
    def rank(self) -> int: ...
    @property
    def extras_dir(self) -> Path:
        """Where rank 0 leaves what is published beside the artifact."""
        ...

    @property
    def work(self) -> CheckpointStore | None:
        """Where unfinished state is kept; None keeps none."""
        ...

    def progress(self, done: int, total: int, unit: str = "steps", **metrics: float) -> None:
        """Report how far the run is."""
        ...

    def log(self, text: str) -> None:
        """One line to the stage's log, from rank 0."""
        ...


class DetachedContext:
    """The context of a run that belongs to no stage: it logs to standard error and reports nothing. Its W&B must be
    disabled, for there is nothing to say about its origin."""

    def __init__(self, folder: Path, work: CheckpointStore | None = None) -> None:
        """`folder` takes the records."""
        self.extras_dir, self.work = folder, work
        self.rank = int(os.environ.get("RANK", "0"))
        self.wandb: dict[str, str | None] | None = None

    @property
    def spec(self) -> RunDescription:
        raise LookupError("a run outside of a stage has no spec: disable its W&B")

    def progress(self, done: int, total: int, unit: str = "steps", **metrics: float) -> None: ...

    def log(self, text: str) -> None:
        if self.rank == 0:
            print(text, file=sys.stderr)
