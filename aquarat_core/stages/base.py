"""The input and output of a stage: its spec, context and result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion, FileEntry, Parent

if TYPE_CHECKING:
    from aquarat_core.checkpointing.store import CheckpointStore

SPEC_SHA256 = "AQUARAT_SPEC_SHA256"
"""Environment variable with the hash of the control host's spec, because other users may write to the job's folder."""
Scalar = float | int | str | bool | None


SUPERSEDED = "superseded.json"
"""Written by the control host to an attempt's folder before the next attempt is made."""


class StageSpec(BaseModel):
    """Everything that decides a stage's run, written as `spec.json` before it starts and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    store: str
    profile: str
    profile_sha256: str | None = None
    config: dict[str, Any] | None
    inputs: dict[str, Parent]
    code: CodeVersion
    run_id: str
    step_key: str
    attempt: int = 1


@dataclass(slots=True)
class StageContext:
    """The environment of a stage function; one per rank."""

    spec: StageSpec
    config: Any
    """The stage's typed section of the profile, e.g. `RLConfig`."""
    inputs: dict[str, Artifact]
    outdir: Path
    """Folder of the artifact's content: files that rank 0 leaves here are published and decide the data version."""
    extras_dir: Path
    """Folder of the artifact's records, which are published outside its data version: metrics, logs, rendered pages."""
    rank: int = 0
    world: int = 1
    wandb: dict[str, str | None] | None = None
    """The location of the W&B run, if the stage opened one."""
    work: CheckpointStore | None = None
    """Where a training stage keeps its unfinished state; None keeps none."""
    shards: ArtifactStore | None = None
    """Where a stage that works shard by shard keeps those that are done; None keeps none, and all are made here."""
    stored: list[FileEntry] = field(default_factory=list[FileEntry])
    """Content files that are in that store already, and are published with those in `outdir`."""
    send: Callable[[dict[str, Any]], None] | None = None
    _last_sent: float = field(default=0.0)

    def input(self, ending: str) -> Artifact | None:
        """The only input whose asset name ends in `ending`, or None."""
        found = [a for name, a in self.inputs.items() if name.endswith(ending)]
        return found[0] if found else None

    def progress(self, done: int, total: int, unit: str = "steps", **metrics: float) -> None:
        """Report the stage's progress; sends at most two messages a second, but always the last one."""
        now = time.monotonic()
        if self.rank or self.send is None or (done < total and now - self._last_sent < 0.5):
            return
        self._last_sent = now
        self.send({"aquarat": "progress", "done": done, "total": total, "unit": unit, "metrics": metrics})

    def log(self, text: str) -> None:
        """Log one line in the stage's log, from rank 0."""
        if self.rank == 0:
            print(text, file=sys.stderr, flush=True)
