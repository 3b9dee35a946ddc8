"""Thousands of runs: placement, follower, queue and daemon in virtual time, with simulated hosts and supervisors.

Sizes are 10, 100 and 1,000 runs; `--runs 10000` measures that one only. First so many runs wait for a twentieth as
many GPUs; then there are enough for all, and all jobs run at once for two virtual minutes. Every size is a process of
its own, ends after `--minutes` at the latest, and is printed when it is measured. What a worker costs, which is woken
at the start and at the end of a job, is measured beside it as what a process costs that loads the code location.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.settings import REPO_ROOT
from benchmarks.harness import BenchError, Result, report, run_apart, unmeasured

SIZES = [10, 100, 1000]
GIB = 1 << 30
PLACEMENT_GOAL, CORES_GOAL, MEMORY_GOAL = 20.0, 2.0, 4.0


def main(options: Sequence[str]) -> int:
    """Measures every size, and prints each as it is there, then all in a line of JSON."""
    arguments = _arguments(options)
    cpu, memory = _worker()
    results = [Result("worker/cpu_to_load", "s", (cpu,)), Result("worker/memory", "MB", (memory / 1e6,))]
    _print(results)
    done, broken = list[int](), None
    for size in arguments.runs:
        measured = _measured(size, arguments, memory)
        _print(measured)
        results += measured
        if measured[0].value is not None:
            done.append(size)
        if broken is None and any(result.met is False for result in measured):
            broken = size
    if done:
        name, at = ("every_goal_met_up_to", max(done)) if broken is None else ("goal_breaks_at", broken)
        results.append(Result(name, "runs", (float(at),)))
        _print(results[-1:])
    print(json.dumps(report("control-plane", results)), flush=True)
    return 0 if len(done) == len(arguments.runs) else 1


def _measured(size: int, arguments: argparse.Namespace, worker: float) -> list[Result]:
    """The results of one size, or the reason why it was not measured: it failed, or took longer than `--minutes`."""
    began = time.monotonic()
    with scratch_folder("bench") as folder:
        home = folder / "home"
        home.mkdir()
        env = {"DAGSTER_MODULE_NAME": "tests.launching.definitions", "AQUARAT_CACHE": str(folder / "cache")}
        work = {"home": str(home), "size": size, "workers": arguments.workers}
        try:
            found = run_apart("benchmarks.control_plane_measure", work, folder, env=env, seconds=60 * arguments.minutes)
        except BenchError as e:
            return [unmeasured(f"{size}/running", "runs", str(e))]
    return [
        *_results(size, found, arguments.workers * worker),
        Result(f"{size}/took", "minutes", ((time.monotonic() - began) / 60,)),
    ]


def _arguments(options: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench control-plane", allow_abbrev=False)
    parser.add_argument("--runs", type=int, nargs="+", default=SIZES, help="sizes to measure (default: 10 100 1000)")
    parser.add_argument("--minutes", type=float, default=30.0, help="at most, for each size (default: 30)")
    parser.add_argument(
        "--workers", type=int, default=8, help="woken at once, as `max_workers` in dagster.yaml (default: 8)"
    )
    return parser.parse_args(options)


def _print(results: Sequence[Result]) -> None:
    for result in results:
        met = {True: f"  met: {result.goal}", False: f"  NOT met: {result.goal}", None: ""}[result.met]
        value = f"not measured: {result.reason}" if result.value is None else f"{result.value:,.4g} {result.unit}"
        print(f"{result.name:<36} {value}{met}", flush=True)


def _results(size: int, found: Mapping[str, Any], workers: float) -> list[Result]:
    line, hold = found["line"], found["hold"]
    placement = 1000 * line["cpu"]["placement"] / line["starts"]
    others = sum(line["cpu"].values()) - line["cpu"]["placement"]
    cores = sum(hold["cpu"].values()) / hold["seconds"]
    # The worst moment: as many workers as are woken at once, beside daemon and follower, which are one process here.
    memory = (found["memory"] + workers) / GIB
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
        Result(f"{at}/most_younger_before_one_in_line", "runs", (float(found["overtaken"]),)),
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
