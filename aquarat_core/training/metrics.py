"""One row of metrics a step: first into `metrics.jsonl`, then to W&B and to whoever watches."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aquarat_core.config import WandbConfig
from aquarat_core.training.context import RunContext

METRICS_FILE = "metrics.jsonl"


class MetricLog:
    """Rank 0's record of a run; on other ranks every call does nothing.

    `replay` repeats the rows of a resumed run to W&B: an offline run lies in a file of its own, and the one of the
    killed process may be gone with its host.
    """

    def __init__(self, path: Path | None, run: Any, replay: bool = False) -> None:
        self._path, self._run, self._replay = path, run, replay
        self._file = path.open("w") if path else None

    def row(self, step: int, **values: float | dict[str, float]) -> None:
        """Write one row; a name with slashes is given as a keyword through `**{...}`."""
        if self._file is None:
            return
        finite = {k: v for k, v in values.items() if not (isinstance(v, float) and not math.isfinite(v))}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        if self._run is not None:
            self._run.log(finite, step=step)

    def state_dict(self) -> dict[str, str]:
        """The rows so far."""
        return {"rows": self._path.read_text() if self._path else ""}

    def load_state_dict(self, state_dict: Mapping[str, str], /) -> None:
        """Start from these rows; those written since they were saved come again."""
        if self._file is None:
            return
        self._file.seek(0)
        self._file.truncate()
        self._file.write(state_dict["rows"])
        self._file.flush()
        if self._run is not None and self._replay:
            for row in map(json.loads, state_dict["rows"].splitlines()):
                self._run.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table in W&B; the file of metrics holds numbers only."""
        if self._run is not None:
            import wandb

            self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step=step)

    def close(self) -> None:
        """End the file and the W&B run."""
        if self._file is not None:
            self._file.close()
        if self._run is not None:
            self._run.finish()


@contextmanager
def metric_log(ctx: RunContext, wandb: WandbConfig, continued: str | None = None) -> Iterator[MetricLog]:
    """The log of a stage's run, in the artifact's records; `continued` is the W&B run that it goes on with."""
    if ctx.rank:
        yield MetricLog(None, None)
        return
    run = _start_wandb(ctx, wandb, continued)
    log = MetricLog(ctx.recorddir / METRICS_FILE, run, replay=wandb_mode(wandb) == "offline")
    try:
        yield log
    finally:
        log.close()
        if run is not None:
            import wandb as client

            # An offline run may still be on its way to its file when `finish` returns; this waits for the writer.
            client.teardown()
        _keep_offline_run(ctx)


def _keep_offline_run(ctx: RunContext) -> None:
    """Copy what `wandb sync` needs of an offline run; W&B's own logs beside it are links out of the artifact."""
    for run in ctx.recorddir.parent.glob("wandb/offline-run-*/run-*.wandb"):
        kept = ctx.recorddir / "wandb" / run.parent.name
        kept.mkdir(parents=True)
        shutil.copy(run, kept)


def wandb_mode(config: WandbConfig) -> str:
    """`online`, `offline` or `disabled`: the environment's WANDB_MODE first, then the config, then by the key."""
    asked = os.environ.get("WANDB_MODE") or config.mode
    if asked != "auto":
        return asked
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


def _start_wandb(ctx: RunContext, config: WandbConfig, continued: str | None) -> Any:
    mode = wandb_mode(config)
    if mode == "disabled":
        return None
    import wandb

    spec = ctx.spec
    run = wandb.init(
        project=config.project,
        # The same for every attempt at a run: a curve is one curve, however often its stage was started.
        id=continued or f"{spec.stage}-{spec.run_id[:8]}",
        resume="allow" if mode == "online" else None,
        group=spec.run_id,
        job_type=spec.stage,
        mode=mode,
        dir=ctx.recorddir.parent,
        config={
            "profile": spec.profile,
            "stage": spec.config,
            "inputs": {name: parent.data_version for name, parent in spec.inputs.items()},
            "code": spec.code.model_dump(),
        },
        settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True),
    )
    ctx.wandb = {"run_id": run.id, "mode": mode, "url": run.url if mode == "online" else None}
    return run
