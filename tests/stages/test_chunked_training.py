"""base_checkpoint trains on more token shards than its cache may hold, is killed and stopped, and changes nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aquarat_core.artifacts import Artifact
from aquarat_core.data.token_files import write_index, write_shard
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.run import STOPPED
from tests.factories import reading_tokenizer
from tests.patience import limit
from tests.stages.chunked_run import CHUNK_TOKENS, WINDOW
from tests.stages.conftest import ALONE, Bench

pytestmark = pytest.mark.slow

SHARDS, STEPS = 12, 120
OTHERS = 30_000
"""Bytes of tokenizer, index and validation, which stay in the cache."""
PROGRAM = Path(__file__).with_name("chunked_run.py")
CONFIG = {
    "launch": ALONE, "steps": STEPS, "batch_tokens": 8 * 64, "micro_batch_rows": 8, "eval_every": 30,
    "eval_tokens": 512, "checkpoint": {"every_steps": 5, "every_minutes": None},
    "model": {"depth": 1, "width_per_layer": 16, "head_size": 16, "sequence_len": 64},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokens(bench: Bench) -> dict[str, Artifact]:
    """Twelve shards of one chunk each."""
    tokenizer, rng = reading_tokenizer(), np.random.default_rng(0)
    bos, vocabulary = tokenizer.special("<|bos|>"), tokenizer.vocab_size

    def part() -> tuple[np.ndarray, np.ndarray]:
        ids = rng.integers(0, vocabulary, size=CHUNK_TOKENS + 100)
        ids[ids == bos] = (bos + 1) % vocabulary
        starts = [0, *sorted({*rng.integers(1, len(ids), size=60).tolist()})]
        ids[starts] = bos
        return ids.astype(np.uint32), np.array([*starts, len(ids)])

    def write(folder: Path) -> None:
        shards = [write_shard(folder / f"train-{i:05d}.bin", [part()], vocabulary) for i in range(SHARDS)]
        validation = write_shard(folder / "validation.bin", [part()], vocabulary)
        write_index(folder, shards, validation, bos, vocabulary)

    return {
        "tokenizer": bench.make("tokenizer", lambda folder: tokenizer.save(folder / "tokenizer.json")),
        "pretrain_tokens": bench.make("pretrain_tokens", write),
    }


class Run:
    """Attempts at the stage on a host with an empty cache of its own."""

    def __init__(self, bench: Bench, tokens: dict[str, Artifact], folder: Path, cache: str) -> None:
        self.bench, self.folder = bench, folder
        config = bench.context("base_checkpoint", CONFIG, **tokens).config.model_dump()
        job = bench.store.job(folder.name, "base_checkpoint", 1)
        job.write_json("spec.json", bench.spec("base_checkpoint", config, **tokens).model_dump())
        self.spec = f"{job.uri}/spec.json"
        self.env = os.environ | {
            "PYTHONPATH": str(REPO_ROOT), "AQUARAT_CACHE": str(folder / "cache"), "AQUARAT_CACHE_LIMIT": cache,
        }  # fmt: skip

    def start(self, step: int = 0, number: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(PROGRAM), self.spec, str(self.folder / "facts.json"), str(step), str(number)]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=limit(120))

    def facts(self) -> dict[str, Any]:
        return json.loads((self.folder / "facts.json").read_text())

    def published(self) -> tuple[list[float], bytes, Artifact]:
        """The loss of each step, and the weights, of what was published last."""
        made = self.bench.store.latest("base_checkpoint")
        assert made is not None
        rows = [json.loads(line) for line in made.record("metrics.jsonl").read_text().splitlines()]
        return [row["train/loss"] for row in rows], made.path("model.safetensors").read_bytes(), made


def test_a_cache_smaller_than_the_data_and_two_interruptions_change_nothing(
    bench: Bench, tokens: dict[str, Artifact], tmp_path: Path
) -> None:
    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
    whole = Run(bench, tokens, tmp_path / "whole", "1GB")
    done = whole.start()
    assert done.returncode == 0, done.stderr
    expected, weights, made = whole.published()
    assert len(expected) == STEPS
    assert 1 < made.manifest.metrics["epochs"] < 1.5
    assert 0 <= made.manifest.metrics["data_wait_share"] < 1
    assert sorted(shards_in(whole.facts())) == sorted({*shards_in(whole.facts())}), "each once, in a cache for all"

    part, fetched = Run(bench, tokens, tmp_path / "part", "0.03MB"), list[str]()
    for step, number, code, resumed in (
        (42, signal.SIGKILL, -signal.SIGKILL, ""),
        (97, signal.SIGTERM, STOPPED, r"resuming after step [1-4]?[05] "),
        (0, 0, 0, r"resuming after step 97 "),
    ):
        done = part.start(step, number)
        assert done.returncode == code and re.search(resumed, done.stderr), done.stderr
        facts = part.facts()
        fetched += shards_in(facts)
        assert facts["over"] <= 0, "the cache holds no more than its limit, or what is in use"
        assert facts["most"] <= 2 * WINDOW * 2 * (CHUNK_TOKENS + 100) + OTHERS
    found, same, _ = part.published()
    assert found == expected and same == weights
    assert len({*fetched}) == SHARDS < len(fetched), "the second epoch fetches again what the cache has dropped"


def shards_in(facts: dict[str, Any]) -> list[str]:
    return [file for file in facts["fetched"] if file.startswith("train-")]
