"""A stage program that speaks the real one's protocol and trains nothing; tests start it as a process.

`TOY_<ASSET>` says what it does, as JSON: `content` (text it publishes), `folder` (whose files it publishes too),
`metrics`, `say` (printed), `log` (to Dagster), `result` (says that this manifest is what it made), `hold` (a path: it
makes a file `<path>.held`, then waits until `<path>.go` is there), or a way to go wrong: `user_error`, `bug`,
`die_rank` (that rank just exits) or `hang` (a path: writes the ids of its processes there, then waits).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from dagster_pipes import open_dagster_pipes

from aquarat_core.artifacts import ArtifactStore, JobDir
from aquarat_core.stages.base import StageSpec
from aquarat_core.stages.registry import STAGES
from aquarat_core.stages.run import moves_ref

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main(spec_uri: str) -> int:
    job = JobDir.at(spec_uri.rpartition("/")[0])
    spec = StageSpec.model_validate(job.read_json("spec.json"))
    orders = json.loads(os.environ.get(f"TOY_{spec.stage.upper()}", "{}"))
    rank = int(os.environ.get("RANK", "0"))
    print(f"line of rank {rank}", flush=True)
    if "say" in orders:
        print(orders["say"], flush=True)
    if orders.get("die_rank") == rank:
        print("rank is about to die", flush=True)
        os._exit(7)
    if "hold" in orders:
        _hold(Path(orders["hold"]))
    if "hang" in orders:
        _hang(Path(orders["hang"]))
    if rank:
        time.sleep(30 if "die_rank" in orders else 0)
        return 0
    for kind in ("user_error", "bug"):
        if kind in orders:
            error = {"type": "RuntimeError", "message": orders[kind], "user": kind == "user_error"}
            job.write_json("result.json", {"ok": False, "error": error})
            return 2 if kind == "user_error" else 1
    if "result" in orders:
        job.write_json("result.json", {"ok": True, "manifest_sha256": orders["result"]})
        return 0
    with open_dagster_pipes() as pipes:
        if "log" in orders:
            pipes.log.info(orders["log"])
        for done in (1, 2, 3):
            numbers = {"train/loss": 1.0 / done, "train/nothing": float("nan")}
            pipes.report_custom_message(
                {"aquarat": "progress", "done": done, "total": 3, "unit": "steps", "metrics": numbers}
            )
    _publish(job, spec, orders)
    return 0


def _publish(job: JobDir, spec: StageSpec, orders: dict) -> None:
    with TemporaryDirectory() as content, TemporaryDirectory() as records:
        Path(content, "content.txt").write_text(orders.get("content", spec.stage))
        if "folder" in orders:
            shutil.copytree(orders["folder"], content, dirs_exist_ok=True)
        Path(records, "report.md").write_text("# Toy report\n")
        Path(records, "report.html").write_text("<h1>Toy report</h1>\n")
        artifact = ArtifactStore.open(spec.store).publish(
            asset=spec.stage,
            kind=STAGES[spec.stage].kind,
            directory=Path(content),
            records=Path(records),
            config=spec.config or {},
            profile=spec.profile,
            profile_sha256=spec.profile_sha256,
            code=spec.code,
            parents=tuple(spec.inputs.values()),
            metrics=orders.get("metrics", {"train_loss": 0.25}),
            seeds={},
            run_id=spec.run_id,
            latest=moves_ref(),
        )
    named = {"manifest_sha256": artifact.sha256, "data_version": artifact.data_version, "uri": artifact.uri}
    job.write_json("result.json", {"ok": True, **named, "metrics": {}, "seconds": 0.1})


def _hold(path: Path) -> None:
    path.with_suffix(".held").touch()
    while not path.with_suffix(".go").exists():
        time.sleep(0.1)


def _hang(path: Path) -> None:
    """Ignores SIGTERM, and starts a child in a session of its own that does too, as torchrun's workers may."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", DEAF], start_new_session=True)
    path.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
    path.with_suffix(".part").rename(path)
    time.sleep(600)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
