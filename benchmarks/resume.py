"""Base, mid, SFT and RL killed with SIGKILL at 24 seeded points each, compared bit by bit with uninterrupted runs.

One run of each stage is killed at every point in turn, among them inside a checkpoint's write and between the objects
of an upload, and started again with the same command until it ends. Its losses, gradient norms and weights must be
those of a run that nobody disturbed. Base training is also killed on two gloo ranks under torchrun's agent, the whole
process group at once, and again with starts on two ranks and on one in turn. Children are forked from a process that
has everything imported; what a start costs from nothing, imports included, is measured apart (`cold_start`), as the
shell would start the stage. The kills are counted by the phase that they fell into.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.command import STAGE
from aquarat_core.stages.registry import CHECKPOINTS
from benchmarks.harness import BenchError, Result
from benchmarks.kill.chain import IN_FLOAT32, SAVE_EVERY, Chain, Outcome, chain, points

POINTS, POINTS_OF_RANKS = 24, 12
SEEDS = {stage: 40 + i for i, stage in enumerate(CHECKPOINTS)}


def run() -> list[Result]:
    """Kills every stage's run and prints a line of what became of it."""
    with scratch_folder("bench") as scratch:
        # The worker's cache is this process's too: it reads the artifacts.
        os.environ["AQUARAT_CACHE"] = f"{scratch}/cache"
        with chain(scratch) as made:
            outcomes = [made.kill(stage, points(POINTS, SEEDS[stage], stage)) for stage in CHECKPOINTS]
            outcomes.append(made.kill("base_checkpoint", points(POINTS, 50), ranks=(2,)))
            outcomes.append(made.kill("base_checkpoint", points(POINTS_OF_RANKS, 51), (2, 1), IN_FLOAT32))
            cold = {stage: _cold_start(made, stage) for stage in CHECKPOINTS}
    Console(width=None if sys.stdout.isatty() else 120).print(_table(outcomes))
    if failed := [o.name for o in outcomes if o.died != len(o.points)]:
        raise BenchError(f"{', '.join(failed)} ended before it was killed at every point")
    starts = [Result(f"{stage}/cold_start", "s", (seconds,)) for stage, seconds in cold.items()]
    return [r for o in outcomes for r in _results(o)] + starts


def _results(o: Outcome) -> list[Result]:
    n = len(o.points)
    return [
        Result(f"{o.name}/kill_points", "kills", (n,), goal="≥ 20 kills" if len(set(o.ranks)) == 1 else None),
        Result(f"{o.name}/passed", "kills", (n if o.passed else 0,), goal=f"≥ {n} kills"),
        *(Result(f"{o.name}/killed_in_{phase}", "kills", (count,)) for phase, count in sorted(o.phases.items())),
        Result(f"{o.name}/max_difference", "nats", (o.max_difference,), goal=f"≤ {o.tolerance:g} nats"),
        Result(f"{o.name}/first_step_after_restart", "s", tuple(o.restart_seconds)),
        Result(f"{o.name}/steps_redone_per_kill", "steps", (o.redone / n,), goal=f"≤ {SAVE_EVERY + 1} steps"),
    ]


def _cold_start(made: Chain, stage: str) -> float:
    """Seconds from the shell to the end of a whole undisturbed run of the stage, in a process of its own."""
    started = time.monotonic()
    command = [sys.executable, *STAGE, made.spec(stage)]
    env = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPO_ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{stage} ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    return time.monotonic() - started


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(
        "stage", "kill points", "passed", "killed in", "max |Δ|", "s to first step", "steps redone", title="resume"
    )
    for o in outcomes:
        seconds = f"{min(o.restart_seconds):.2f} to {max(o.restart_seconds):.2f}" if o.restart_seconds else ""
        n = len(o.points)
        phases = ", ".join(f"{phase} {count}" for phase, count in o.phases.most_common())
        passed = str(n if o.passed else 0)
        table.add_row(o.name, str(n), passed, phases, f"{o.max_difference:g}", seconds, str(o.redone))
    return table
