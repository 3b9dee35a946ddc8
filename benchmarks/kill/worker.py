"""Runs stages in forked children and kills them with SIGKILL at given points: `python -m benchmarks.kill.worker`.

A line of JSON on standard input starts a stage: `{"spec": URI, "journal": PATH, "point": [KIND, N] or null, "ranks":
R}`; one on standard output says how it ended. Everything is imported once here, so that a restart costs no import; with
several ranks torchrun's own agent forks them. Checkpoints are cut into shards of a quarter of a megabyte. The points:

    step N      after the Nth row of this start             update N   in its Nth step, before the update
    file N      before the Nth file of a checkpoint         half N     with the Nth file copied, but not yet in place
    commit N    before the Nth commit                       delete N   before the Nth object is deleted
    rollout N   before the Nth token of RL's samples        eval N     before the Nth token of RL's evaluations

With several ranks every second point is the last rank's; who dies takes the whole process group along. The phase in
which it died, as the calls around it tell, is appended to JOURNAL.deaths.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from aquarat_core.artifacts import weights
from aquarat_core.artifacts.local import LocalBackend
from aquarat_core.rl import callbacks
from aquarat_core.rl import update as rl_update
from aquarat_core.rl.rollouts import RolloutCollector
from aquarat_core.rollout.batch import Batch
from aquarat_core.runtime.rendezvous import BACKEND, one_host
from aquarat_core.stages import base_checkpoint, chat_training, rl_checkpoint, run
from aquarat_core.tracking import metrics
from aquarat_core.training import optimizer

assert base_checkpoint and chat_training and rl_checkpoint

RANK_0_ALONE = ("commit", "delete")
"""Kinds of points that come to pass on rank 0 only."""
weights.SHARD_BYTES = 1 << 18
PHASES = ((RolloutCollector, "collect", "rollout"), (rl_update.PolicyOptimizer, "update", "update"),
          (optimizer.ShardedOptimizer, "step", "update"), (callbacks.Measurement, "take", "eval"))  # fmt: skip
inside: list[str] = []
"""The phases that the main thread is in, the innermost last."""


def die(phase: str, journal: str) -> None:
    """SIGKILL to this process's whole group."""
    with Path(f"{journal}.deaths").open("a") as f:
        f.write(f"{phase}\n")
    os.killpg(0, signal.SIGKILL)


def know_phases() -> None:
    """Keep `inside` true from now on."""
    for owner, name, phase in PHASES:
        watch(owner, name, lambda *_, phase=phase: inside.append(phase), lambda *_: inside.pop())


def watch(owner: type, name: str, before: Callable[..., None] | None = None, after: Callable[..., None] | None = None):
    """Call `before` and `after` with the arguments of every call of a method."""
    original = getattr(owner, name)

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before:
            before(*args)
        result = original(self, *args, **kwargs)
        if after:
            after(*args)
        return result

    setattr(owner, name, watched)


def keep_journal(path: Path, started: float) -> None:
    """Append `step, seconds since this start` after every step."""

    def note(step: int) -> None:
        with path.open("a") as f:
            f.write(f"{json.dumps([step, time.monotonic() - started])}\n")

    watch(metrics.MetricLog, "row", after=note)


def arm(kind: str, n: int, journal: str) -> None:
    """Die at the `n`th occasion of that kind."""
    left = [n]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            in_checkpoint = kind in ("file", "half", "commit", "delete")
            die("checkpoint" if in_checkpoint else inside[-1] if inside else "between", journal)

    if kind == "step":
        watch(metrics.MetricLog, "row", after=count)
    elif kind == "update":
        watch(optimizer.ShardedOptimizer, "step", before=count)
    elif kind in ("rollout", "eval"):
        watch(Batch, "step", before=lambda *_: count() if inside and inside[-1] == kind else None)
    elif kind == "file":
        watch(LocalBackend, "put_file", before=lambda key, *_: count(key) if key.startswith("work/") else None)
    elif kind == "half":
        watch(LocalBackend, "_link", before=lambda temp, key: count(key) if "safetensors" in key else None)
    elif kind == "commit":
        watch(LocalBackend, "create", before=lambda key, *_: count(key) if key.endswith("commit.json") else None)
    elif kind == "delete":
        watch(LocalBackend, "delete", before=lambda key, *_: count(key) if key.startswith("work/") else None)
    else:
        raise ValueError(f"unknown kind of point {kind!r}")
    know_phases()  # outside of what dies


def child(order: dict[str, Any]) -> int:
    """The stage's exit code, on one rank or under torchrun's agent."""
    if order["ranks"] == 1:
        return on_rank(order)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=order["ranks"], rdzv_backend=BACKEND,
        run_id=str(os.getpid()), max_restarts=0, monitor_interval=0.05, start_method="fork",
    )  # fmt: skip
    with one_host():
        return max(elastic_launch(config, on_rank)(order).values())


def on_rank(order: dict[str, Any]) -> int:
    """Run the stage in this process, which may be told to die."""
    started = time.monotonic()
    rank, ranks = int(os.environ.get("RANK", "0")), order["ranks"]
    if rank == 0:
        keep_journal(Path(order["journal"]), started)
    if order["point"]:
        kind, n = order["point"]
        if rank == (0 if kind in RANK_0_ALONE else n % ranks):
            arm(kind, n, order["journal"])
    return run.main(order["spec"])


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.dup2(2, 1)
            os._exit(child(order))
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"exit": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
