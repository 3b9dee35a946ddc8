"""Sharded stages: 200 shards on processes and Ray, the driver's overhead, training on more shards than a disk holds.

The shards are sources of Python's library and of the installed packages, each beginning at another file. They are
encoded by the function that pretrain_tokens uses: its input is fetched from a store on this disk, and its result is
stored on it. The runs on one and on two processes alternate, each with an empty store for its results and new
processes.

10,000 shards without input or files show what the driver itself costs: processor time for each shard, and memory of
the driver and of its workers beside those of a tenth as many. What follows for 1,822 shards of 250 million characters
is computed from the rates, and marked so: it leaves out downloads, other stages and the network of a bucket.

If Ray is installed (`./run setup --ray`), a local cluster of two CPUs makes the same shards in turn with processes; the
time does not include the cluster's start. Tasks that come first wait for Ray's workers, as processes have to start.

Training reads an epoch of 48 shards of 16.8 million tokens, each a chunk, from a store that gives 20 MB/s, through a
cache that holds half of them. A step takes 524,288 tokens and, besides waiting, 0.131 s: 4 million tokens a second, as
eight GPUs train a small model. What a step waits for is its files, and the tensors of one of eight ranks.

`AQUARAT_BENCH_DATA_SCALE` is a share of the shards, and of the tokens of a shard, to take instead of all.
"""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Against, Result, compare, run_apart, unmeasured

WORKER = "benchmarks.data_scale_worker"
READER = "benchmarks.data_scale_reader"
SHARDS, SHARD_BYTES = 200, 5_000_000
EMPTY = 10_000
PAIRS = 3
WANTED_SHARDS, WANTED_BYTES = 1_822, 250_000_000
"""Shards of the default data set on the Hub, 100 billion tokens, and the text of one."""
READ_SHARDS, READ_TOKENS = 48, 1 << 24
BATCH, STEP_SECONDS, RATE = 524_288, 0.131, 20e6


def run() -> list[Result]:
    share = float(os.environ.get("AQUARAT_BENCH_DATA_SCALE", "1"))
    shards, empty = max(4, int(share * SHARDS)), max(20, int(share * EMPTY))
    with tempfile.TemporaryDirectory(prefix="aquarat-data-scale-") as name:
        folder = Path(name)
        facts = {"folder": str(folder), "shards": shards, "bytes": SHARD_BYTES}
        _do(folder, "make", facts)
        runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
        for i in range(PAIRS):
            for processes in (1, 2) if i % 2 == 0 else (2, 1):
                runs[processes].append(_do(folder, "encode", facts | {"processes": processes}))
        few = _do(folder, "empty", facts | {"shards": empty // 10, "processes": 2})
        many = _do(folder, "empty", facts | {"shards": empty, "processes": 2})
        again = _do(folder, "find", facts | {"shards": empty, "processes": 2})
        beside = _on_ray(folder, facts, shards)
        reading = _reading(folder, share)
    return [*_speed(shards, runs), *beside, *_driver(few, many, again), *_computed(runs), *reading]


def _do(folder: Path, what: str, facts: dict[str, Any]) -> dict[str, Any]:
    return run_apart(WORKER, facts | {"do": what}, folder)


def _speed(shards: int, runs: dict[int, list[dict[str, Any]]]) -> list[Result]:
    seconds = {n: tuple(r["seconds"] for r in found) for n, found in runs.items()}
    name = f"{shards} shards, processes 1 to 2"
    if len(os.sched_getaffinity(0)) < 2:
        return [unmeasured(name, "s", "there is only one processor here", goal="≥ 1.8")]
    ratio = median(a / b for a, b in zip(seconds[1], seconds[2], strict=True))
    return [
        Result(name, "s", seconds[2], Against("1 process", median(seconds[1])), ratio, "≥ 1.8"),
        *(_used(n, found) for n, found in runs.items()),
    ]


def _used(processes: int, found: list[dict[str, Any]]) -> Result:
    """Processor seconds of driver and workers for each second of a run."""
    cores = tuple((r["cpu"] + r["workers_cpu"]) / r["seconds"] for r in found)
    spent = median(r["cpu"] + r["workers_cpu"] for r in found)
    return Result(f"cores in use, processes: {processes} ({spent:.1f} s of processor)", "cores", cores)


def _on_ray(folder: Path, facts: dict[str, Any], shards: int) -> list[Result]:
    name = f"{shards} shards on a local Ray cluster of 2 CPUs"
    if find_spec("ray") is None:
        return [unmeasured(name, "s", "Ray is not installed: ./run setup --ray")]
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        return [unmeasured(name, "s", "there is only one processor here")]

    def seconds(ray: bool) -> float:
        return _do(folder, "encode", facts | {"processes": 2, "ray": ray})["seconds"]

    return [compare(name, "s", lambda: seconds(True), lambda: seconds(False), "2 processes", runs=PAIRS)]


def _reading(folder: Path, share: float) -> list[Result]:
    facts = {
        "folder": str(folder), "shards": READ_SHARDS, "tokens": int(share * READ_TOKENS), "batch": BATCH,
        "step_seconds": STEP_SECONDS, "rate": RATE,
    }  # fmt: skip
    size = run_apart(READER, facts | {"do": "tokens"}, folder)["bytes"]
    found = run_apart(READER, facts | {"do": "read", "limit": size // 2}, folder)
    plans = tuple(run_apart(READER, facts | {"do": "plan"}, folder)["seconds"] for _ in range(PAIRS))
    whole = Against("all shards", size / 1e6)
    waits, makes, seconds = found["waits"], found["makes"], found["seconds"]
    return [
        Result("planning the rows of a shard of 50 million tokens, processor", "s", plans, goal="≤ 0.1 s"),
        Result(f"planning all {READ_SHARDS} shards, with fetching lengths", "s", (found["planned"],)),
        Result("until the first step's files are there", "s", (found["first"],)),
        Result(
            f"share of {found['steps']:,} steps that waits for data", "%", (100 * (waits + makes) / seconds,),
            goal="≤ 1 %",
        ),
        Result("share that waits for files", "%", (100 * waits / seconds,)),
        Result("most in the cache", "MB", (found["most"] / 1e6,), whole, found["most"] / size),
        Result("fetched in an epoch", "MB", (found["fetched"] / 1e6,), whole, found["fetched"] / size),
    ]  # fmt: skip


def _driver(few: dict[str, Any], many: dict[str, Any], again: dict[str, Any]) -> list[Result]:
    n = many["shards"]
    return [
        Result("the driver's processor time for a shard", "ms", (1e3 * many["cpu"] / n,), goal="≤ 10 ms"),
        Result(f"{n:,} empty shards, for each", "ms", (1e3 * many["seconds"] / n,)),
        Result(f"{n:,} empty shards found again, for each", "ms", (1e3 * again["seconds"] / n,)),
        Result(f"memory of the driver, {n:,} shards", "MB", (many["memory"],), Against("a tenth", few["memory"])),
        Result(f"memory of a worker, {n:,} shards", "MB", (many["worker"],), Against("a tenth", few["worker"])),
    ]


def _computed(runs: dict[int, list[dict[str, Any]]]) -> list[Result]:
    found: list[Result] = []
    for processes, measured in runs.items():
        rate = median(r["bytes"] / r["seconds"] for r in measured)
        hours = WANTED_SHARDS * WANTED_BYTES / rate / 3600
        name = f"COMPUTED: {WANTED_SHARDS:,} shards to tokens, processes: {processes}"
        found += [
            Result(f"text to tokens, processes: {processes}", "MB/s", (rate / 1e6,)),
            Result(name, "h", (hours,)),
        ]
    return found
