"""Seeded faults between a client and the bucket, and writers killed at seeded points: the long version of the tests.

Each sequence publishes, claims and reads through a proxy that breaks connections, loses answers, slows them and lets
others write first; then the store is looked at without the proxy. A sequence that leaves anything half-written, loses
anything or ends with anything but success or a clear error fails the bench. `AQUARAT_BENCH_FAULTS` is how many
sequences (default 240), `AQUARAT_BENCH_KILLS` how many kills (default 60, half on each kind of store).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from unittest import mock
from uuid import uuid4

from aquarat_core.runtime.scratch import scratch_folder
from benchmarks.harness import BenchError, Result
from tests.artifacts.conftest import start, write_files
from tests.artifacts.emulator import BUCKET, emulator
from tests.artifacts.fault_proxy import fault_proxy
from tests.artifacts.fault_sequences import assert_sound, run_sequence, small_sizes

FILES = {"model.safetensors": b"weights" * 40_000, "config.json": b"{}", "sub/tokenizer.json": b"[]"}
MAX_OPERATIONS = {"file": 60, "gs": 24}


def run() -> list[Result]:
    sequences = int(os.environ.get("AQUARAT_BENCH_FAULTS", "240"))
    kills = int(os.environ.get("AQUARAT_BENCH_KILLS", "60"))
    with scratch_folder("bench") as folder, emulator(folder / "objects") as url:
        settings = {"STORAGE_EMULATOR_HOST": url, "AQUARAT_CACHE": str(folder / "cache")}
        with mock.patch.dict(os.environ, settings):
            return [*_faults(sequences, url, folder), *_kills(kills, folder)]


def _faults(sequences: int, url: str, folder: Path) -> list[Result]:
    faults: Counter[str] = Counter()
    clear_errors = 0
    began = time.monotonic()
    with fault_proxy(url) as proxy:
        through = mock.patch.dict(os.environ, STORAGE_EMULATOR_HOST=proxy.url)
        for seed in range(sequences):
            with small_sizes(deadline=0.5 if seed % 10 == 9 else 10.0):
                uri = f"gs://{BUCKET}/{uuid4().hex}/store"
                try:
                    outcome = run_sequence(seed, proxy, uri, folder / f"faults-{seed}", through)
                except AssertionError as e:
                    raise BenchError(f"fault sequence {seed}: {e}") from e
            faults += outcome.faults
            clear_errors += bool(outcome.failed)
    del faults["pass"]
    return [
        Result("fault_sequences", "sequences", (float(sequences),), goal="≥ 200 sequences"),
        Result("fault_sequences/ended_with_a_clear_error", "sequences", (float(clear_errors),)),
        *(Result(f"faults/{name}", "faults", (float(n),)) for name, n in sorted(faults.items())),
        Result("fault_sequences/seconds", "s", (time.monotonic() - began,)),
    ]


def _kills(kills: int, folder: Path) -> list[Result]:
    rng = random.Random(0)
    results = []
    source = write_files(folder / "source", FILES)
    for kind, most in MAX_OPERATIONS.items():
        done = 0
        for n in range(kills // 2):
            base = f"file://{folder}" if kind == "file" else f"gs://{BUCKET}/{uuid4().hex}"
            uri = f"{base}/killed-{n}"
            worker = start("publish_and_die", uri, source, "killed", rng.randrange(1, most))
            worker.communicate("\n")
            if worker.returncode not in (-signal.SIGKILL, 0):
                raise BenchError(f"kill {n} on {kind}: the writer ended with {worker.returncode}")
            done += worker.returncode != 0
            try:
                assert_sound(uri)
                again = start("publish_and_die", uri, source, "again", 0)
                again.communicate("\n")
                assert again.returncode == 0, "publishing again failed"
                assert_sound(uri, latest_of="again")
            except AssertionError as e:
                raise BenchError(f"kill {n} on {kind}: {e}") from e
        results.append(Result(f"kills/{kind}", "kills", (float(done),)))
    return results
