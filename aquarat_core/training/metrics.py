"""One row of metrics a step: first into `metrics.jsonl`, then to W&B and to whoever watches."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aquarat_core.config import WandbConfig
from aquarat_core.stages.base import StageContext

METRICS_FILE = "metrics.jsonl"


class MetricLog:
    """Rank 0's record of a run; on other ranks every call does nothing."""

    def __init__(self, path: Path | None, run: Any) -> None:
        self._file = path.open("w") if path else None
        self._run = run

    def row(self, step: int, **values: float | dict[str, float]) -> None:
        """Write one row; a name with slashes is given as a keyword through `**{...}`."""
        if self._file is None:
            return
        finite = {k: v for k, v in values.items() if not (isinstance(v, float) and not math.isfinite(v))}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        if self._run is not None:
            self._run.log(finite, step=step)

    def close(self) -> None:
        """End the file and the W&B run."""
        if self._file is not None:
            self._file.close()
        if self._run is not None:
            self._run.finish()


@contextmanager
def metric_log(ctx: StageContext, wandb: WandbConfig) -> Iterator[MetricLog]:
    """The log of a stage's run, in the artifact's records."""
    if ctx.rank:
        yield MetricLog(None, None)
        return
    run = _start_wandb(ctx, wandb)
    log = MetricLog(ctx.recorddir / METRICS_FILE, run)
    try:
        yield log
    finally:
        log.close()
        _keep_offline_run(ctx)


def _keep_offline_run(ctx: StageContext) -> None:
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


def _start_wandb(ctx: StageContext, config: WandbConfig) -> Any:
    mode = wandb_mode(config)
    if mode == "disabled":
        return None
    import wandb

    spec = ctx.spec
    run = wandb.init(
        project=config.project,
        id=f"{spec.stage}-{spec.run_id[:8]}-{spec.attempt}",
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
