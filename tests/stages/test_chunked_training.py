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
from aquarat_core.stages.command import torchrun
from aquarat_core.stages.run import STOPPED
from tests.factories import reading_tokenizer
from tests.patience import limit
from tests.stages.chunked_run import CHUNK_TOKENS, WINDOW
from tests.stages.conftest import ALONE, Bench

pytestmark = pytest.mark.slow

SHARDS, STEPS = 12, 120
OTHERS = 30_000
"""Bytes of tokenizer, index and validation, which stay in the cache."""
AT_MOST = 2 * WINDOW * 2 * (CHUNK_TOKENS + 100) + OTHERS
"""Bytes of two windows and the others."""
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

    def __init__(self, bench: Bench, tokens: dict[str, Artifact], folder: Path, cache: str, ranks: int = 1) -> None:
        folder.mkdir()
        self.bench, self.folder, self.ranks = bench, folder, ranks
        wanted = CONFIG | {"launch": ALONE | {"nproc": ranks}, "micro_batch_rows": 8 // ranks}
        config = bench.context("base_checkpoint", wanted, **tokens).config.model_dump()
        job = bench.store.job(folder.name, "base_checkpoint", 1)
        job.write_json("spec.json", bench.spec("base_checkpoint", config, **tokens).model_dump())
        self.spec = f"{job.uri}/spec.json"
        self.env = os.environ | {
            "PYTHONPATH": str(REPO_ROOT), "AQUARAT_CACHE": str(folder / "cache"), "AQUARAT_CACHE_LIMIT": cache,
        }  # fmt: skip

    def start(self, step: int = 0, number: int = 0) -> subprocess.CompletedProcess[str]:
        program = [str(PROGRAM), self.spec, str(self.folder / "facts.json"), str(step), str(number)]
        command = [sys.executable, *program]
        if self.ranks > 1:
            command = torchrun(program, self.ranks, str(self.folder / "ranks"))
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=limit(120))

    def facts(self) -> list[dict[str, Any]]:
        """What each rank has noted of the cache."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("facts.json*"))]

    def published(self) -> tuple[list[float], bytes, Artifact]:
        """The loss of each step, and the weights, of what was published last."""
        made = self.bench.store.latest("base_checkpoint")
        assert made is not None
        rows = [json.loads(line) for line in made.record("metrics.jsonl").read_text().splitlines()]
        return [row["train/loss"] for row in rows], made.path("model.safetensors").read_bytes(), made


def test_a_cache_smaller_than_the_data_and_two_interruptions_change_nothing(
    bench: Bench, tokens: dict[str, Artifact], tmp_path: Path
) -> None:
    whole = Run(bench, tokens, tmp_path / "whole", "1GB")
    done = whole.start()
    assert done.returncode == 0, done.stderr
    expected, weights, made = whole.published()
    assert len(expected) == STEPS
    assert 1 < made.manifest.metrics["epochs"] < 1.5
    assert 0 <= made.manifest.metrics["data_wait_share"] < 1
    fetched = shards_in(*whole.facts())
    assert sorted(fetched) == sorted({*fetched}), "each once, in a cache for all"

    part, fetched = Run(bench, tokens, tmp_path / "part", "0.03MB"), list[str]()
    for step, number, code, resumed in (
        (42, signal.SIGKILL, -signal.SIGKILL, ""),
        (97, signal.SIGTERM, STOPPED, r"resuming after step [1-4]?[05] "),
        (0, 0, 0, r"resuming after step 97 "),
    ):
        done = part.start(step, number)
        assert done.returncode == code and re.search(resumed, done.stderr), done.stderr
        (facts,) = part.facts()
        fetched += shards_in(facts)
        assert facts["over"] <= 0, "the cache holds no more than its limit, or what is in use"
        assert facts["most"] <= AT_MOST
    found, same, _ = part.published()
    assert found == expected and same == weights
    assert len({*fetched}) == SHARDS < len(fetched), "the second epoch fetches again what the cache has dropped"


def test_two_ranks_share_a_cache_smaller_than_the_data(
    bench: Bench, tokens: dict[str, Artifact], tmp_path: Path
) -> None:
    alone = Run(bench, tokens, tmp_path / "alone", "1GB")
    assert alone.start().returncode == 0
    of_one, _, _ = alone.published()
    whole = Run(bench, tokens, tmp_path / "whole", "1GB", ranks=2)
    done = whole.start()
    assert done.returncode == 0, done.stderr
    expected, weights, _ = whole.published()
    assert expected == pytest.approx(of_one, rel=1e-3), "the same rows in the same steps, none left out or doubled"
    assert len(shards_in(*whole.facts())) == SHARDS, "the ranks of a host fetch each shard once"

    part = Run(bench, tokens, tmp_path / "part", "0.03MB", ranks=2)
    for step, number in ((42, signal.SIGKILL), (0, 0)):
        done = part.start(step, number)
        assert (done.returncode == 0) == (step == 0), done.stderr
        for facts in part.facts():
            # What is in use may change while it is looked at: the other rank lets files go.
            assert facts["most"] <= AT_MOST
    assert re.search(r"resuming after step [1-4]?[05] ", done.stderr), done.stderr
    found, same, _ = part.published()
    assert found == expected and same == weights


def shards_in(*facts: dict[str, Any]) -> list[str]:
    return [file for one in facts for file in one["fetched"] if file.startswith("train-")]
