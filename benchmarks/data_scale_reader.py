"""Training's side of `data-scale`, in a process of its own: it makes token shards, or steps over their rows, which come
from a store of limited speed through a cache that cannot hold them all; what to do is in WORK."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.artifacts.cache import Cache
from aquarat_core.artifacts.hashing import Digest
from aquarat_core.artifacts.local import LocalBackend
from aquarat_core.artifacts.transfer import OnBytes, no_progress
from aquarat_core.data import token_plans
from aquarat_core.data.packing import plan_documents
from aquarat_core.data.rows import EpochShuffle
from aquarat_core.data.token_files import INDEX, TokenShard, read_index, write_index, write_shard
from aquarat_core.data.tokens import plan, training_rows
from aquarat_core.runtime.preemption import never
from benchmarks.data_scale_worker import publish

VOCABULARY, BOS, T = 50_304, 0, 2_048
SHARD_OF_HUB, DOCUMENTS_OF_HUB = 50_000_000, 53_000
"""Tokens and documents of a shard of the default data set."""
RANKS = 8
"""This process is one of them: it makes the tensors of every eighth row of a step."""


class Throttled:
    """A folder as a store that gives `rate` bytes a second, however many files are read at a time."""

    def __init__(self, inner: LocalBackend, rate: float) -> None:
        self.inner, self.rate, self.fetched = inner, rate, 0
        self._lock, self._free = threading.Lock(), 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def get_file(self, key: str, target: Path, have: int = 0, advance: OnBytes = no_progress) -> Digest | None:
        def slowed(size: int) -> None:
            with self._lock:
                self.fetched += size
                self._free = max(self._free, time.monotonic()) + size / self.rate
                wait = self._free - time.monotonic()
            time.sleep(max(0.0, wait))
            advance(size)

        return self.inner.get_file(key, target, have, slowed)


def main() -> None:
    work = json.loads(os.environ["WORK"])
    folder = Path(work["folder"])
    found = {"tokens": _make, "read": _read, "plan": _plan}[work["do"]](folder, work)
    Path(work["out"]).write_text(json.dumps(found))


def _lengths(rng: np.random.Generator, tokens: int) -> np.ndarray:
    """Lengths of documents like those of web pages, which add up to `tokens`."""
    n = max(2, tokens * DOCUMENTS_OF_HUB // SHARD_OF_HUB)
    drawn = rng.lognormal(6.2, 1.1, n)
    lengths = np.maximum(2, drawn / drawn.sum() * (tokens - 2 * n)).astype(np.int64)
    lengths[0] += tokens - lengths.sum()
    return lengths


def _make(folder: Path, work: dict[str, Any]) -> dict[str, Any]:
    """Shards of random ids."""
    rng, made = np.random.default_rng(0), folder / "tokens"
    made.mkdir()

    def shard(name: str, tokens: int) -> TokenShard:
        offsets = np.cumsum([0, *_lengths(rng, tokens)])
        ids = rng.integers(1, VOCABULARY, tokens, dtype=np.uint32)
        ids[offsets[:-1]] = BOS
        return write_shard(made / name, [(ids, offsets)], VOCABULARY)

    train = [shard(f"train-{i:05d}.bin", work["tokens"]) for i in range(work["shards"])]
    write_index(made, train, shard("validation.bin", 100_000), BOS, VOCABULARY)
    artifact = publish(ArtifactStore.open(f"file://{folder}/store"), "pretrain_tokens", made)
    shutil.rmtree(made)
    return {"bytes": sum(entry.size for entry in artifact.manifest.files)}


def _plan(folder: Path, work: dict[str, Any]) -> dict[str, Any]:
    """Processor seconds of planning the rows of one shard of the default data set."""
    del folder, work
    lengths = _lengths(np.random.default_rng(1), SHARD_OF_HUB)
    began = time.process_time()
    rows = len(plan_documents(lengths, T))
    return {"seconds": time.process_time() - began, "rows": rows}


def _read(folder: Path, work: dict[str, Any]) -> dict[str, Any]:
    """An epoch of steps that take `step_seconds` besides waiting for their rows."""
    token_plans.CHUNK_TOKENS = work["tokens"]
    backend = open_backend(f"file://{folder}/store")
    assert isinstance(backend, LocalBackend)
    throttled, cache = Throttled(backend, work["rate"]), folder / "reader"
    artifact = ArtifactStore(throttled, Cache(cache, work["limit"])).resolve("pretrain_tokens")
    index = read_index(artifact.path(INDEX), VOCABULARY)
    (folder / "planned").mkdir()
    began = time.perf_counter()
    made = plan(artifact, index, T, folder / "planned")
    planned = time.perf_counter() - began
    with training_rows(artifact, index, made) as rows:
        order, per_step = EpochShuffle(rows.chunk_rows, 0), work["batch"] // T
        steps, waits, makes, most = len(rows) // per_step, list[float](), list[float](), 0
        began = time.perf_counter()
        for step in range(steps):
            started = time.perf_counter()
            rows.hold(*order.chunks(step, per_step, steps), never)
            there = time.perf_counter()
            rows.tensors(order.rows(step, per_step)[::RANKS], torch.device("cpu"))
            waits.append(there - started)
            makes.append(time.perf_counter() - there)
            most = max(most, sum(p.stat().st_size for p in (cache / "blobs").glob("*/*")))
            time.sleep(work["step_seconds"])
        seconds = time.perf_counter() - began
    return {
        "first": waits[0], "waits": sum(waits[1:]), "makes": sum(makes), "seconds": seconds - waits[0], "steps": steps,
        "most": most, "fetched": throttled.fetched, "planned": planned,
    }  # fmt: skip


if __name__ == "__main__":
    main()
