"""Run one stage from its spec: `python -m aquarat_core.stages.run <job>/spec.json`, alone or under torchrun.

Rank 0 publishes the artifact and then writes `result.json` next to the spec. The exit code is 0 on success, 2 for a
`UserError` (only its message is printed), 75 for a stage that was stopped by SIGTERM and continues when it is started
again, 1 for anything else (with the traceback).
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from aquarat_core.agent.protocol import Failed
from aquarat_core.artifacts import ArtifactStore, JobDir
from aquarat_core.artifacts.bounded import validated
from aquarat_core.artifacts.hashing import digest_bytes
from aquarat_core.artifacts.manifest import canonical
from aquarat_core.config import validate
from aquarat_core.errors import StageError, UserError
from aquarat_core.runtime.preemption import Preempted
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.stages.base import SPEC_SHA256, SUPERSEDED, StageContext, StageSpec
from aquarat_core.stages.code_version import result_version
from aquarat_core.stages.registry import STAGES
from aquarat_core.stages.stage import Stage

if TYPE_CHECKING:
    from aquarat_core.checkpointing.store import CheckpointStore


class Superseded(RuntimeError):
    """Another attempt at the step was started because this one seemed lost."""


STOPPED_ERROR = "Stopped"
"""The name of a stopped stage's error in `result.json`; the control host looks for it."""
STOPPED = 75
"""EX_TEMPFAIL in sysexits.h."""


def main(spec_uri: str) -> int:
    """Run the stage that `spec_uri` describes and return the process's exit code."""
    job = JobDir.at(spec_uri.rsplit("/", 1)[0])
    rank = int(os.environ.get("RANK", "0"))
    try:
        spec = _spec(job)
        work = _work_area(job, spec)
        result = run(job, spec, rank, work)
    except Exception as e:
        user = isinstance(e, UserError)
        # torchrun ends all ranks when the first one fails, often before rank 0 gets here, so any rank may write the
        # reason. The first one stays, unless a user's error replaces it: the others are consequences.
        leave = job.write_json if user else job.create_json
        stopped = isinstance(e, Preempted)
        kind = STOPPED_ERROR if stopped else type(e).__name__
        failed: Failed = {"ok": False, "error": {"type": kind, "message": str(e), "user": user}}
        leave("result.json", failed)
        text = f"rank {rank}: {e}" if user or stopped else traceback.format_exc()
        print(text, file=sys.stderr, flush=True)
        return 2 if user else STOPPED if stopped else 1
    if rank == 0:
        job.write_json("result.json", result)
        if work is not None:
            work.clear()
    return 0


def moves_ref() -> bool:
    """Whether this process makes the artifact that it publishes its asset's latest one.

    Not if a control host started it: the control host moves the ref when Dagster records the materialization, so that
    an unwatched job never replaces a newer artifact.
    """
    return SPEC_SHA256 not in os.environ


def _spec(job: JobDir) -> StageSpec:
    """The spec, if it is the control host's; a stage that was started by hand trusts the file."""
    held = job.read_json("spec.json")
    if held is None:
        raise StageError(f"there is no {job.uri}/spec.json: start the stage through Dagster, which writes it")
    decided = os.environ.get(SPEC_SHA256)
    if decided and digest_bytes(canonical(held)).sha256 != decided:
        raise StageError(
            f"{job.uri}/spec.json is not what the control host wrote: it was changed, so the stage was not run"
        )
    return validated(StageSpec, held, f"{job.uri}/spec.json", "Start the stage through Dagster, which writes it.")


def run(job: JobDir, spec: StageSpec, rank: int = 0, work: CheckpointStore | None = None) -> dict[str, Any]:
    """Run the stage function and, on rank 0, publish its output. Returns the content of `result.json`."""
    stage = STAGES[spec.stage]
    store = ArtifactStore.open(spec.store)
    started = time.monotonic()
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder(spec.stage))
        ctx = stage_context(stage, spec, store, scratch, rank)
        ctx.work = work
        if rank == 0:
            ctx.shards = store
            ctx.send = _pipes_sender(stack)
        metrics = stage.load()(ctx)
        if rank:
            return {"ok": True}
        seconds = time.monotonic() - started
        refuse_if_superseded(job)
        artifact = store.publish(
            asset=spec.stage,
            kind=stage.kind,
            directory=ctx.outdir,
            records=ctx.extras_dir,
            config=spec.config or {},
            profile=spec.profile,
            profile_sha256=spec.profile_sha256,
            code=spec.code,
            parents=tuple(spec.inputs.values()),
            metrics={**metrics, "seconds": round(seconds, 3)},
            seeds={"seed": spec.config["seed"]} if spec.config and "seed" in spec.config else {},
            run_id=spec.run_id,
            wandb=ctx.wandb,
            latest=moves_ref(),
            stored=ctx.stored,
        )
    return {
        "ok": True,
        "manifest_sha256": artifact.sha256,
        "data_version": artifact.data_version,
        "uri": artifact.uri,
        "metrics": metrics,
        "seconds": round(seconds, 3),
    }


def _work_area(job: JobDir, spec: StageSpec) -> CheckpointStore | None:
    """Where a training stage keeps its unfinished state; None for other stages."""
    stage = STAGES[spec.stage]
    if stage.kind != "checkpoint":
        return None
    # Imports torch, which other stages do not need.
    from aquarat_core.checkpointing import checkpoint_store

    inputs = {name: parent.data_version for name, parent in spec.inputs.items()}
    code = result_version(stage, _config(stage, spec))
    area = checkpoint_store(job.backend, spec.stage, spec.config, inputs, code, spec.code.version)
    return replace(area, fence=lambda: refuse_if_superseded(job))


def _config(stage: Stage, spec: StageSpec) -> BaseModel | None:
    """The stage's typed config. Raises `ConfigError`."""
    config_type = stage.config_type()
    return validate(config_type, spec.config, spec.stage) if config_type else None


def refuse_if_superseded(job: JobDir) -> None:
    """Raises `Superseded` if the control host has given the step to another attempt.

    A host that was frozen or unreachable may wake up long after its job was started elsewhere.
    """
    if (found := job.read_json(SUPERSEDED)) is not None:
        raise Superseded(f"attempt {found.get('by', '?')} has taken this step over: this one writes nothing more")


def stage_context(stage: Stage, spec: StageSpec, store: ArtifactStore, folder: Path, rank: int) -> StageContext:
    """The context of `spec` on one rank; the artifact is made in `folder`."""
    out, records = folder / "content", folder / "records"
    for directory in (out, records):
        directory.mkdir(exist_ok=True)
    return StageContext(
        spec=spec,
        config=_config(stage, spec),
        inputs={name: store.get(parent.manifest_sha256) for name, parent in spec.inputs.items()},
        outdir=out,
        extras_dir=records,
        rank=rank,
        world=int(os.environ.get("WORLD_SIZE", "1")),
    )


def _pipes_sender(stack: ExitStack) -> Callable[[dict[str, Any]], None] | None:
    """A function that sends a message to the Dagster step that started this process; None without such a step."""
    # One parameter of `open_dagster_pipes` has an incomplete type.
    from dagster_pipes import (
        DAGSTER_PIPES_CONTEXT_ENV_VAR,
        open_dagster_pipes,  # pyright: ignore[reportUnknownVariableType]
    )

    if DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
        return None
    return stack.enter_context(open_dagster_pipes()).report_custom_message


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
