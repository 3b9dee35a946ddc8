"""One row of metrics per step, written first to `metrics.jsonl`, then to W&B."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

from aquarat_core.config import WandbConfig
from aquarat_core.plain_text import first_line
from aquarat_core.tracking.context import RunContext

METRICS_FILE = "metrics.jsonl"
WANDB_START_SECONDS = 15.0
"""Seconds that a stage waits for the W&B server before it continues offline."""
WANDB_FINISH_SECONDS = 30.0
"""Seconds that a finished stage waits for the W&B server to accept the remaining rows."""


class MetricLog:
    """Rank 0's record of a run; on other ranks every call does nothing.

    `replay` repeats the rows of a resumed run to W&B: an offline run has its own file, and that of the killed process
    may be gone with its host. W&B is optional: if its client fails, `warn` is called once, and only the file is written
    from then on.
    """

    def __init__(
        self, path: Path | None, run: Any, replay: bool = False, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        self._path, self._run, self._replay, self._warn = path, run, replay, warn
        self._file = path.open("w") if path else None
        self.failed = False
        """Whether the W&B client failed, so that its server may lack rows."""

    def row(self, step: int, **values: float | dict[str, float]) -> None:
        """Write one row; pass a name with slashes as a keyword through `**{...}`."""
        if self._file is None:
            return
        finite = {k: v for k, v in values.items() if not (isinstance(v, float) and not math.isfinite(v))}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        self._show(finite, step)

    def state_dict(self) -> dict[str, str]:
        """The rows so far."""
        return {"rows": self._path.read_text() if self._path else ""}

    def load_state_dict(self, state_dict: Mapping[str, str], /) -> None:
        """Start from these rows; rows written after they were saved will be written again."""
        if self._file is None:
            return
        self._file.seek(0)
        self._file.truncate()
        self._file.write(state_dict["rows"])
        self._file.flush()
        if self._run is not None and self._replay:
            for row in map(json.loads, state_dict["rows"].splitlines()):
                self._show({k: v for k, v in row.items() if k != "step"}, row["step"])

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table in W&B; the metrics file only holds numbers."""
        if self._run is not None:
            import wandb

            self._show({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step)

    def _show(self, values: dict[str, Any], step: int) -> None:
        """Send values to W&B."""
        if self._run is None:
            return
        try:
            self._run.log(values, step=step)
        except Exception as e:  # a failing client must not end hours of training
            self._warn(f"W&B accepts no more metrics from this stage ({first_line(e)}); {METRICS_FILE} has them all")
            self._run, self.failed = None, True

    def close(self) -> None:
        """Close the file and finish the W&B run."""
        if self._file is not None:
            self._file.close()
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as e:
                self.failed = True
                self._warn(f"the W&B run was not finished ({first_line(e)}); {METRICS_FILE} has all its metrics")


@contextmanager
def metric_log(ctx: RunContext, wandb: WandbConfig, continued: str | None = None) -> Generator[MetricLog]:
    """The log of a stage's run, in the artifact's records; `continued` is the id of the W&B run to continue."""
    if ctx.rank:
        yield MetricLog(None, None)
        return
    run = _start_wandb(ctx, wandb, continued)
    offline = ctx.wandb is not None and ctx.wandb["mode"] == "offline"
    log = MetricLog(ctx.extras_dir / METRICS_FILE, run, replay=offline, warn=ctx.log)
    try:
        yield log
    finally:
        log.close()
        if run is not None:
            # When `finish` returns, an offline run may not be in its file yet; this waits for the writer.
            _end_client(ctx)
            _keep_run(ctx, Path(run.dir).parent, offline, unsent=offline or log.failed)


def _keep_run(ctx: RunContext, folder: Path, offline: bool, unsent: bool) -> None:
    """Copy the files of a run that `wandb sync` needs, and say how to send those that are `unsent`. W&B's own logs are
    left out, because in its folder they are links that lead out of the artifact.

    An online run is kept too, because the client does not report that its server rejected rows.
    """
    kept = ctx.extras_dir / "wandb" / folder.name
    kept.mkdir(parents=True, exist_ok=True)
    for run in folder.glob("run-*.wandb"):
        shutil.copy(run, kept)
    if unsent and os.environ.get("WANDB_API_KEY"):
        command = "wandb sync" if offline else "wandb sync --include-online"
        ctx.log(f"the W&B run of this stage is kept with the artifact's records: {command} wandb/{kept.name}")


def _end_client(ctx: RunContext) -> None:
    import wandb as client

    try:
        client.teardown()
    except Exception as e:
        ctx.log(f"the W&B client did not end well ({first_line(e)})")


def wandb_mode(config: WandbConfig) -> str:
    """`online`, `offline` or `disabled`: from WANDB_MODE in the environment, else the config, else whether a key is
    set."""
    asked = os.environ.get("WANDB_MODE") or config.mode
    if asked != "auto":
        return asked
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


def _start_wandb(ctx: RunContext, config: WandbConfig, continued: str | None) -> Any:
    """The W&B run of this stage. If the server does not accept it for any reason, logs that once and starts an offline
    run; None if that fails too."""
    mode = wandb_mode(config)
    if mode == "disabled":
        return None
    if find_spec("wandb") is None:
        ctx.log(f"W&B is not installed (pip install 'aquarat[train]'): the stage continues with {METRICS_FILE} alone")
        return None
    for tried in dict.fromkeys((mode, "offline")):
        try:
            return _init_wandb(ctx, config, continued, tried)
        except Exception as e:  # the client raises its own errors, pydantic's and others
            then = (
                "continues offline, to be sent later" if tried != "offline" else f"continues with {METRICS_FILE} alone"
            )
            ctx.log(f"W&B does not start ({first_line(e)}): the stage {then}")
            _end_client(ctx)
    return None


def _init_wandb(ctx: RunContext, config: WandbConfig, continued: str | None, mode: str) -> Any:
    import wandb

    spec = ctx.spec
    run = wandb.init(
        project=config.project,
        # The same for every attempt at a run, so that its curve stays one curve however often the stage is started.
        id=continued or f"{spec.stage}-{spec.run_id[:8]}",
        resume="allow" if mode == "online" else None,
        group=spec.run_id,
        job_type=spec.stage,
        # The environment may set an empty mode, which W&B's client rejects.
        mode=cast("Literal['online', 'offline']", mode),
        dir=ctx.extras_dir.parent,
        config={
            "profile": spec.profile,
            "stage": spec.config,
            "inputs": {name: parent.data_version for name, parent in spec.inputs.items()},
            "code": spec.code.model_dump(),
        },
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
            init_timeout=WANDB_START_SECONDS,
            login_timeout=WANDB_START_SECONDS,
            finish_timeout=WANDB_FINISH_SECONDS,
            finish_timeout_raises=True,
        ),
    )
    ctx.wandb = {"run_id": run.id, "mode": mode, "url": run.url if mode == "online" else None}
    return run
