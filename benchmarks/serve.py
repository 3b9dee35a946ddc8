"""`aquarat serve`: tokens/s against the engine's own batch, time to the first token, and 10,000 requests that hang up.

Two models with random weights: that of the profile `demo`, whose steps are so short that the server's own work weighs
most, and one of depth 4 and width 256. Server, clients and engine are processes of their own, and the engine measures
in turn with the clients, on the same prompts with 128 new tokens at temperature 1.

In the last part, 64 clients send 10,000 requests in float32 and greedily, of which three in ten close the connection in
the midst of the answer. Each text must be the one that the same question got alone, or its beginning.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from aquarat_core.config import ModelConfig, TokenizerConfig, load_profile
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.settings import REPO_ROOT
from aquarat_core.text.tokenizer import TOKENIZER_FILE, train_tokenizer
from benchmarks import random_models
from benchmarks.corpus import sources
from benchmarks.harness import Against, BenchError, Result

STREAMS = (1, 8, 64)
NEW_TOKENS = 128
ROUNDS = 3
REQUESTS, KINDS = 10_000, 40
VOCABULARIES = {"demo": 768, "depth 4, width 256": 4_096}
SECONDS = 1_800


def run() -> list[Result]:
    """Measures both models, then the requests that hang up on the smaller one."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, vocabulary in VOCABULARIES.items():
            folder = Path(scratch) / str(vocabulary) / "model"
            _write_model(folder, name, vocabulary)
            results += _speed(name, folder)
        results += _hanging_up(Path(scratch) / str(VOCABULARIES["demo"]) / "model")
    return results


def _write_model(folder: Path, name: str, vocabulary: int) -> None:
    folder.mkdir(parents=True)
    tokenizer = train_tokenizer(sources(2_000_000), TokenizerConfig(vocab_size=vocabulary))
    learned = folder.with_name(TOKENIZER_FILE)
    tokenizer.save(learned)
    config: ModelConfig = load_profile("demo").base_checkpoint.model if name == "demo" else random_models.MODEL
    model = random_models.random_model(tokenizer.vocab_size, torch.float32, config)
    save_checkpoint(folder, model, learned)


def _speed(name: str, folder: Path) -> list[Result]:
    results: list[Result] = []
    with _server(folder) as (port, _):
        _work(kind="load", port=port, streams=8, max_tokens=16, rounds=1)  # warms up
        for streams in STREAMS:
            rates: list[float] = []
            own: list[float] = []
            firsts: list[float] = []
            for _ in range(ROUNDS):
                engine = _work(kind="engine", folder=str(folder), streams=streams, max_tokens=NEW_TOKENS, rounds=1)
                clients = _work(kind="load", port=port, streams=streams, max_tokens=NEW_TOKENS, rounds=1)
                own += engine["rates"]
                rates += clients["rates"]
                firsts += clients["firsts"]
            against = Against("engine", sorted(own)[len(own) // 2])
            ratio = sorted(rates)[len(rates) // 2] / against.value
            results += [
                Result(f"{name}/{streams} streams", "tokens/s", tuple(rates), against, ratio,
                       "≥ 0.8" if streams == max(STREAMS) else None),
                Result(f"{name}/{streams} streams: time to first text", "ms", tuple(1000 * t for t in firsts)),
            ]  # fmt: skip
    return results


def _hanging_up(folder: Path) -> list[Result]:
    with _server(folder, "--dtype", "float32") as (port, pid):
        found = _work(kind="disconnecting", port=port, requests=REQUESTS, at_once=64, kinds=KINDS, pid=pid)
    settled = found["memory"][len(found["memory"]) // 4 :]
    return [
        Result("requests that hung up", "requests", (float(found["hung_up"]),)),
        Result("dropped or mixed texts", "texts", (float(found["wrong"]),), goal="≤ 0 texts"),
        Result("growth of memory in the last three quarters", "MiB", (settled[-1] - settled[0],), goal="≤ 16 MiB"),
    ]


@contextmanager
def _server(folder: Path, *options: str) -> Generator[tuple[int, int]]:
    """A server of the model in `folder`, called `model`: its port and process id."""
    command = [sys.executable, "-m", "aquarat_core.cli", "serve", str(folder), "--port", "0", "--waiting", "1000"]
    log = folder.with_name("serve.log")
    with log.open("w") as written:
        server = subprocess.Popen([*command, *options], stderr=written, cwd=REPO_ROOT)
    try:
        yield _port(server, log), server.pid
    finally:
        server.terminate()
        server.wait(30)


def _port(server: subprocess.Popen[bytes], log: Path) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "port"
        waiting = f"until grep -q 'serving on' {log}; do kill -0 {server.pid} || exit 1; sleep 0.2; done; touch {found}"
        subprocess.run(["bash", "-c", waiting], timeout=120, check=False)
        if not found.exists():
            raise BenchError(f"the server did not start:\n{log.read_text()}")
    line = next(line for line in log.read_text().splitlines() if line.startswith("serving on"))
    return int(line.split("(")[0].rstrip().rpartition(":")[2])


def _work(**work: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.json"
        environment = os.environ | {"WORK": json.dumps(work | {"out": str(out)})}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.serve_worker"],
            env=environment,
            cwd=REPO_ROOT,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode or not out.exists():
            raise BenchError(f"the {work['kind']} part failed")
        return json.loads(out.read_text())
