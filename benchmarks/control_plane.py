"""Thousands of runs: placement, follower, queue and daemon in virtual time, with simulated hosts and supervisors.

Sizes are 10, 100 and 1,000 runs, and with `AQUARAT_BENCH_RUNS="10 100 1000 10000"` others. First so many runs wait for
a twentieth as many GPUs; then there are enough for all, and all jobs run at once for two virtual minutes. Every
size is a process of its own. What a worker costs, which is woken at the start and at the end of a job, is measured
beside it as what a process costs that loads the code location.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from statistics import median
from typing import Any

from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.settings import REPO_ROOT
from benchmarks.harness import Result, run_apart

SIZES = "10 100 1000"
GIB = 1 << 30
PLACEMENT_GOAL, CORES_GOAL, MEMORY_GOAL = 20.0, 2.0, 4.0


def run() -> list[Result]:
    results: list[Result] = []
    broken: int | None = None
    sizes = [int(size) for size in os.environ.get("AQUARAT_BENCH_RUNS", SIZES).split()]
    cpu, memory = _worker()
    for size in sizes:
        with scratch_folder("bench") as folder:
            home = folder / "home"
            home.mkdir()
            env = {"DAGSTER_MODULE_NAME": "tests.launching.definitions", "AQUARAT_CACHE": str(folder / "cache")}
            work = {"home": str(home), "size": size}
            found = run_apart("benchmarks.control_plane_world", work, folder, env=env)
        results += _results(size, found, memory)
        if broken is None and any(result.met is False for result in results):
            broken = size
    standing = broken if broken is not None else max(sizes)
    name = "goal_breaks_at" if broken is not None else "every_goal_met_up_to"
    return [
        *results,
        Result("worker/cpu_to_load", "s", (cpu,)),
        Result("worker/memory", "MB", (memory / 1e6,)),
        Result(name, "runs", (float(standing),)),
    ]


def _results(size: int, found: Mapping[str, Any], worker: float) -> list[Result]:
    line, hold = found["line"], found["hold"]
    placement = 1000 * line["cpu"]["placement"] / line["starts"]
    others = sum(line["cpu"].values()) - line["cpu"]["placement"]
    cores = sum(hold["cpu"].values()) / hold["seconds"]
    # The worst moment: as many workers as are woken at once, beside daemon and follower, which are one process here.
    memory = (found["memory"] + 8 * worker) / GIB
    shortest, longest = found["waits"]
    at = f"{size}"
    return [
        Result(f"{at}/running", "runs", (float(found["running"]),)),
        Result(f"{at}/free_host_to_start", "s", (median(found["idle"]),)),
        Result(f"{at}/free_host_to_start_worst", "s", (max(found["idle"]),)),
        Result(f"{at}/placement_cpu", "ms_a_start", (placement,), goal=f"≤ {PLACEMENT_GOAL:.0f} ms_a_start"),
        Result(f"{at}/other_cpu", "ms_a_start", (1000 * others / line["starts"],)),
        Result(f"{at}/dequeue_cpu", "ms_a_run", (1000 * found["dequeue_cpu"],)),
        Result(f"{at}/cores_while_all_run", "cores", (cores,), goal=f"≤ {CORES_GOAL:.0f} cores"),
        *(
            Result(f"{at}/cores_{name}", "cores", (seconds / hold["seconds"],))
            for name, seconds in hold["cpu"].items()
            if name != "dequeue"
        ),
        Result(f"{at}/store_operations", "per_job_minute", (60 * hold["ops"] / hold["seconds"] / found["running"],)),
        Result(f"{at}/memory", "GiB", (memory,), goal=f"≤ {MEMORY_GOAL:.0f} GiB"),
        Result(f"{at}/longest_wait_over_shortest", "times", (longest / max(shortest, 1.0),)),
        Result(f"{at}/most_younger_before_one", "runs", (float(found["overtaken"]),)),
        Result(f"{at}/refused_starts", "starts", (float(found["refused"]),)),
        Result(f"{at}/wrong_starts", "starts", (float(len(found["wrong"])),), goal="≤ 0 starts"),
    ]


def _worker() -> tuple[float, float]:
    """CPU seconds and bytes of a process that has loaded the code location, as every worker does."""
    program = (
        "import resource, aquarat_pipeline.definitions, dagster._cli.api\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\nprint(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO_ROOT, capture_output=True, text=True, check=True)
    found = re.findall(r"[0-9.]+", done.stdout.splitlines()[-1])
    return float(found[0]), float(found[1]) * 1024
