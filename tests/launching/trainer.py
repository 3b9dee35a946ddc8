"""A stage program that trains nothing but can be killed: it saves every step and goes on from the last one saved.

`<store>/work/<asset>/toy/order.json` says what it does: `steps`, `seconds` for each, `gloo` (an all-reduce a step),
`stops` (on SIGTERM it leaves the result of a stage that saved its state), `fill` (writes that many bytes to its scratch
space first), `content` (publishes that many random bytes), `hold` (the step after which it waits for `released.json`
beside it to name the order's `number`). Every step leaves an object in `trace/`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from dagster_pipes import open_dagster_pipes

from aquarat_core.artifacts import ArtifactStore, JobDir
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.registry import STAGES
from aquarat_core.stages.run import STOPPED, moves_ref


def main(spec_uri: str) -> int:
    job = JobDir.at(spec_uri.rpartition("/")[0])
    spec = StageSpec.model_validate(job.read_json("spec.json"))
    own = JobDir(job.backend, f"work/{spec.stage}/toy/{spec.run_id}")
    orders = JobDir(job.backend, f"work/{spec.stage}/toy").read_json("order.json") or {}
    rank = int(os.environ.get("RANK", "0"))
    if orders.get("stops"):
        signal.signal(signal.SIGTERM, lambda *_: _stop(job))
    reduce = _gloo() if orders.get("gloo") else lambda: None
    try:
        if rank == 0 and "fill" in orders:
            Path(mkdtemp(), "filling").write_bytes(b"\1" * orders["fill"])
        if rank == 0:
            with open_dagster_pipes() as pipes:
                _train(own, spec, orders, pipes, reduce, lambda: _wait(job, spec.stage, orders))
        else:
            for _ in range((own.read_json("state.json") or {"step": 0})["step"], orders.get("steps", 3)):
                time.sleep(orders.get("seconds", 0))
                reduce()
    except OSError as e:
        job.create_json("result.json", {"ok": False, "error": {"type": "OSError", "message": str(e), "user": False}})
        return 1
    if rank == 0:
        job.write_json("result.json", _publish(spec, orders.get("content", 16)))
    return 0


def _stop(job: JobDir) -> None:
    """As a stage does that saved its state on SIGTERM."""
    job.create_json("result.json", {"ok": False, "error": {"type": "Stopped", "message": "stopped", "user": False}})
    os._exit(STOPPED)


def _train(own: JobDir, spec: StageSpec, orders: dict, pipes, reduce, wait) -> None:
    steps = orders.get("steps", 3)
    first = (own.read_json("state.json") or {"step": 0})["step"]
    began = time.time()
    print(f"attempt {spec.attempt} starts at step {first}", flush=True)
    for number in range(orders.get("lines", 0)):
        print(f"line {number}", flush=False)
    for step in range(first + 1, steps + 1):
        time.sleep(orders.get("seconds", 0))
        reduce()
        mark = {"step": step, "pid": os.getpid(), "attempt": spec.attempt, "host": os.environ.get("TOY_HOST")}
        own.create_json(f"trace/{time.time_ns()}.json", mark | {"time": time.time()})
        own.write_json("state.json", {"step": step})
        print(f"step {step}", flush=True)
        pipes.report_custom_message(
            {"aquarat": "progress", "done": step, "total": steps, "unit": "steps", "metrics": {"train/loss": 1 / step}}
        )
        if step == orders.get("hold"):
            wait()
    own.write_json("times.json", {"first": began, "last": time.time()})


def _wait(job: JobDir, stage: str, orders: dict) -> None:
    """Until the order is released: what a test does to a running job must not depend on how fast either is."""
    folder = JobDir(job.backend, f"work/{stage}/toy")
    while (folder.read_json("released.json") or {}).get("number") != orders["number"]:
        time.sleep(0.1)


def _publish(spec: StageSpec, size: int) -> dict:
    with TemporaryDirectory() as content:
        Path(content, "content.txt").write_text(f"{spec.stage} of {spec.run_id}")
        Path(content, "content.bin").write_bytes(os.urandom(size))
        artifact = ArtifactStore.open(spec.store).publish(
            asset=spec.stage,
            kind=STAGES[spec.stage].kind,
            directory=Path(content),
            config=spec.config or {},
            profile=spec.profile,
            profile_sha256=spec.profile_sha256,
            code=spec.code,
            parents=tuple(spec.inputs.values()),
            metrics={"train_loss": 0.25},
            seeds={},
            run_id=spec.run_id,
            latest=moves_ref(),
        )
    named = {"manifest_sha256": artifact.sha256, "data_version": artifact.data_version, "uri": artifact.uri}
    return {"ok": True, **named, "metrics": {}, "seconds": 0.1}


def _gloo():
    import torch
    import torch.distributed as dist

    from aquarat_core.runtime.rendezvous import ranks_store

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = ranks_store(size)
    dist.init_process_group("gloo", **({"store": store, "rank": rank, "world_size": size} if store else {}))
    world = dist.get_world_size()

    def reduce() -> None:
        one = torch.ones(1)
        dist.all_reduce(one)
        assert one.item() == world

    print(f"gloo: {world} ranks", flush=True)
    return reduce


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
