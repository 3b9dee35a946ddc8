"""The context that a run needs from its stage; `stages.base.StageContext` provides it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from aquarat_core.checkpointing import CheckpointStore


class RunDescription(Protocol):
    """Where a run comes from, as stated in its record."""

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
    """Set to the URL or path of the W&B run."""

    @property
    def spec(self) -> RunDescription: ...
    @property
    def rank(self) -> int: ...
    @property
    def extras_dir(self) -> Path:
        """Folder in which rank 0 leaves files that are published next to the artifact."""
        ...

    @property
    def work(self) -> CheckpointStore | None:
        """The store of unfinished state; None keeps none."""
        ...

    def progress(self, done: int, total: int, unit: str = "steps", **metrics: float) -> None:
        """Report the progress of the run."""
        ...

    def log(self, text: str) -> None:
        """Log one line in the stage's log, from rank 0."""
        ...


class DetachedContext:
    """The context of a run without a stage: logs to standard error and reports nothing. W&B must be disabled, because
    there is no origin to describe."""

    def __init__(self, folder: Path, work: CheckpointStore | None = None) -> None:
        """The records are written to `folder`."""
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
