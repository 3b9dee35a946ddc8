"""Seeded mutations of every file format: each read ends in a value or one named error, within 1 s and 256 MiB.

Manifests, refs, records of jobs, leases, tickets, tokenizers, Parquet, checkpoints, YAML and `.env` are changed byte by
byte and value by value, and read by the product's own readers in a process apart. A violation is an input that ends in
any other error, or in none and a wrong value, or takes longer or more memory. `AQUARAT_BENCH_ATTACK` is how many inputs
(default 20,000), shared among the formats. Nothing but this machine's disk is touched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.settings import REPO_ROOT
from benchmarks.harness import BenchError, Result
from benchmarks.hostile.formats import FORMATS, SHARES

INPUTS = 20_000
GOAL_SECONDS = 1.0
GOAL_MIB = 256.0
HANGS_SECONDS = 60.0
"""Without a word for so long, the reader is taken for hung in a library, and ended."""
SHOWN = 10


@dataclass
class Found:
    """What came of one format's inputs so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    mib: float = 0.0
    violations: list[str] = field(default_factory=list)

    def add(self, name: str, read: dict[str, Any]) -> None:
        self.seconds, self.mib = max(self.seconds, read["seconds"]), max(self.mib, read["mib"])
        over = [
            said
            for too_much, said in (
                (read["outcome"] == "violation", read["why"]),
                (read["seconds"] > GOAL_SECONDS, f"{read['seconds']:.1f} s"),
                (read["mib"] > GOAL_MIB, f"{read['mib']:.0f} MiB"),
            )
            if too_much
        ]
        self.outcomes["violation" if over else read["outcome"]] += 1
        if over:
            self.violations.append(f"{name} {read['read']}: {', '.join(over)}")


def run() -> list[Result]:
    """Reads all inputs; the last line of standard output is the bench's JSON."""
    inputs = int(os.environ.get("AQUARAT_BENCH_ATTACK", INPUTS))
    total = sum(SHARES.values())
    found: dict[str, Found] = defaultdict(Found)
    with scratch_folder("attack") as folder:
        for name in FORMATS:
            _attack(name, -(-inputs * SHARES[name] // total), folder / name, found[name])
            one = found[name]
            said = ", ".join(f"{n} {outcome}" for outcome, n in sorted(one.outcomes.items()))
            print(f"{name:<24} {one.seconds:6.2f} s {one.mib:6.0f} MiB  {said}", flush=True)
            for line in one.violations[:SHOWN]:
                print(f"  {line}", flush=True)
    return [
        Result("inputs", "inputs", (float(sum(f.outcomes.total() for f in found.values())),), goal="≥ 20000 inputs"),
        Result("worst_seconds", "s", (max(f.seconds for f in found.values()),), goal="≤ 1 s"),
        Result("worst_memory", "MiB", (max(f.mib for f in found.values()),), goal="≤ 256 MiB"),
        Result("violations", "inputs", (float(sum(len(f.violations) for f in found.values())),), goal="≤ 0 inputs"),
        *(Result(f"{name}/violations", "inputs", (float(len(f.violations)),)) for name, f in found.items()),
    ]


def _attack(name: str, count: int, folder: Path, found: Found) -> None:
    """Reads `count` inputs; a reader that dies or hangs is a violation of the input it was at, and is replaced."""
    folder.mkdir()
    done = 0
    while done < count:
        reading = None
        for said in _reader(name, done, count - done, folder):
            if "reading" in said:
                reading = said["reading"]
            else:
                reading, done = None, said["read"] + 1
                found.add(name, said)
        if done >= count:
            return
        if reading is None:
            said = (folder / "log").read_text(errors="replace")[-2000:]
            raise BenchError(f"the reader of {name} cannot read what is valid, or does not start: {said}")
        found.add(name, {"read": reading, "outcome": "violation", "why": "the process died or hung",
                         "seconds": 0.0, "mib": 0.0})  # fmt: skip
        done = reading + 1


def _reader(name: str, first: int, count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """What the worker says, until it ends or has said nothing for too long."""
    command = [sys.executable, "-m", "benchmarks.hostile.worker", name, str(first), str(count), str(folder)]
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(command, cwd=REPO_ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as reader,
    ):
        assert reader.stdout is not None
        try:
            while True:
                watch = threading.Timer(HANGS_SECONDS, reader.kill)
                watch.start()
                line = reader.stdout.readline()
                watch.cancel()
                if not line:
                    return
                yield json.loads(line)
        finally:
            reader.kill()
