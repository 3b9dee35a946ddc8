"""Mixing, rendering and packing for SFT: 97,467 questions and 460,000 conversations; CPU, memory of the host, rows/s.

The data sets are cut from the sources of Python's library, about as long as the rows of AQuA-RAT and SmolTalk: three in
five conversations do not fit 512 tokens. Each way runs on two ranks, as SFT on two cores does:

- memory is the largest sum of the proportional set sizes of all processes, torchrun, Python and torch included: what
  the host must have. The sum of resident sizes, shown beside it, counts the pages of a library once per process. Other
  processes that have loaded the same library files lower the first: measure when no other program runs torch;
- CPU is that of all ranks together, from the files of the data sets to rows that can be trained on.

The way it was done before, by a Python object for every message on every rank, is measured beside it on a tenth of the
data, since all of it would need more memory than most machines have; both must give the same rows, bit for bit.
`AQUARAT_BENCH_DATA` is a share of the data to take instead of all.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from aquarat_pipeline.memory import PeakMemory
from benchmarks.harness import Against, BenchError, Result, run_apart

QUESTIONS, CHATS = 97_467, 460_000
VOCABULARY = 32_768
RANKS = 2
WORKER = "benchmarks.data_worker"
SEQUENCE_LENGTHS = (512, 2_048)
"""Of the profile `tiny` and of `d12`."""
BEFORE_SHARE = 0.1


def run() -> list[Result]:
    """Raises `BenchError` where both ways do not give the same rows."""
    share = float(os.environ.get("AQUARAT_BENCH_DATA", "1"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = _before_and_now(folder / "tenth", share * BEFORE_SHARE)
        _make(folder / "all", share)
        idle = _measured("nothing", folder / "all", SEQUENCE_LENGTHS[0])
        results.append(Result("memory of ranks that do nothing", "GB", (idle["memory"],)))
        results.append(Result("the same, resident", "GB", (idle["resident"],)))
        for T in SEQUENCE_LENGTHS:
            results += _now(folder / "all", T, goals=share == 1)
    return results


def _make(folder: Path, share: float) -> None:
    folder.mkdir()
    sizes = {"chats": int(share * CHATS), "questions": int(share * QUESTIONS), "vocabulary": VOCABULARY}
    run_apart(WORKER, {"do": "make", "folder": str(folder), **sizes}, folder)


def _now(folder: Path, T: int, goals: bool) -> list[Result]:
    measured = _measured("files", folder, T)
    conversations = measured["conversations"] + measured["too_long"]
    name = f"{conversations:,} conversations, {T} tokens"
    return [
        Result(f"{name}: CPU", "s", (measured["cpu"],), goal="≤ 60 s" if goals else None),
        Result(f"{name}: memory", "GB", (measured["memory"],), goal="≤ 1.5 GB" if goals else None),
        Result(f"{name}: memory, resident", "GB", (measured["resident"],)),
        Result(f"{name}: wall time", "s", (measured["seconds"],)),
        Result(f"{name}: speed", "rows/s", (conversations / measured["seconds"],)),
        Result(f"{name}: left out", "%", (100 * measured["too_long_share"],)),
    ]


def _before_and_now(folder: Path, share: float) -> list[Result]:
    _make(folder, share)
    T = SEQUENCE_LENGTHS[0]
    before, now = (_measured(way, folder, T, compared=True) for way in ("objects", "files"))
    if before["rows"] != now["rows"]:
        raise BenchError("the packed rows are not those that one object for every message gives")
    name = f"{now['conversations'] + now['too_long']:,} conversations, {T} tokens"
    return [
        Result(f"{name}: {what}", unit, (now[key],), Against("as objects", before[key]), now[key] / before[key])
        for what, unit, key in (("CPU", "s", "cpu"), ("memory", "GB", "memory"), ("wall time", "s", "seconds"))
    ]


def _measured(way: str, folder: Path, T: int, compared: bool = False) -> dict[str, Any]:
    """What `way` reports on `RANKS` ranks, with all processes' `memory` in GB and the sum of their `resident` sizes."""
    work = {"do": way, "folder": str(folder), "sequence_len": T, "ranks": RANKS, "compared": compared}
    # Of a store that no job is in: only what is started here is counted.
    with PeakMemory(str(folder)) as peak:
        measured = run_apart(WORKER, work, folder, RANKS, {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})
    return measured | {"memory": peak.peak_mb * 1024**2 / 1e9, "resident": peak.peak_resident_mb * 1024**2 / 1e9}
