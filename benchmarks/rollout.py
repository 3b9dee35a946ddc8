"""Generation: tokens/s, time to first token, time per token and share of memory bandwidth, by batch size.

Prompts of 100 tokens, 64 new ones, at temperature 1 and without a stop token, so that every row runs to the end. On
CPUs the model is depth 4, width 256, vocabulary 8,192, and the work is split over one process a core with one thread
each, as the launcher starts ranks; all processes measure at the same time. The goal is given for any machine as
generated tokens/s x forward FLOPs per token over the float32 matrix rate, which the same processes measure just before
and after. On a GPU the models are of depth 8, 12 and 20 at 256 rows.

In float32 and on one thread, a few batches are also given to a plain eager engine with the same weights
(`plain_engine.py`), in turn.

Bandwidth counts what a step must read, weights and keys and values, against what copying a large array moves.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from aquarat_core.config import LaunchConfig, ModelConfig
from aquarat_core.config.accounting import kv_bytes_per_token, matrix_parameters, padded_vocabulary
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.engine import Engine
from aquarat_core.runtime.distributed import compute_dtype
from aquarat_core.runtime.memory import keep_freed_memory
from benchmarks.harness import Against, Result, unmeasured
from benchmarks.plain_engine import PlainEngine
from benchmarks.random_models import random_model

PROMPT, NEW = 100, 64
RUNS = 3
CPU_MODEL = ModelConfig(depth=4, width_per_layer=64, head_size=128, sequence_len=256)
CPU_VOCABULARY = 8_192
GPU_GOALS = {8: 200_000, 12: 90_000, 20: 30_000}
BATCHES = {"1": (1, 1), "8": (1, 8), "64": (4, 16), "256": (16, 16), "64 x 16": (64, 16)}
"""Prompts and samples of each."""
BESIDE_PLAIN = {"1 x 1": (1, 1, "≥ 1.5 x"), "1 x 16": (1, 16, "≥ 2.5 x"), "16 x 16": (16, 16, "≥ 8 x")}
"""Prompts and samples of each, and how many times the plain engine's speed is the goal."""
PAIRS = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """One process's part of one run of one batch."""

    tokens: int
    seconds: float
    first_token: float
    flops_rate: float
    bytes_rate: float


def run() -> list[Result]:
    """Measures on the GPU where there is one, else on all cores."""
    results = _on_gpu() if torch.cuda.is_available() else _on_cpu()
    if not torch.cuda.is_available():
        reason = "torch sees no GPU here"
        results += [
            unmeasured(f"gpu/d{d}/256", "tokens/s", reason, f"≥ {goal} tokens/s") for d, goal in GPU_GOALS.items()
        ]
    return results


def forward_flops(config: ModelConfig, vocab_size: int) -> int:
    """Of one generated token in the middle of its row."""
    context = PROMPT + NEW // 2
    weights = matrix_parameters(config) + padded_vocabulary(vocab_size) * config.dim
    return 2 * weights + 4 * config.depth * config.dim * context


def step_bytes(config: ModelConfig, vocab_size: int, prompts: int, rows: int, kv_bytes: int) -> float:
    """What one decoding step reads on average: the weights in bfloat16, each prompt once, each row's own tokens."""
    weights = 2 * (matrix_parameters(config) + padded_vocabulary(vocab_size) * config.dim)
    return weights + kv_bytes_per_token(config, kv_bytes) * (prompts * PROMPT + rows * NEW / 2)


def _on_cpu() -> list[Result]:
    workers = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workers)
    queues = [context.SimpleQueue() for _ in range(2 * workers)]
    processes = [
        context.Process(target=_worker, args=(i, workers, barrier, queues[2 * i], queues[2 * i + 1]))
        for i in range(workers)
    ]
    for process in processes:
        process.start()
    results = []
    try:
        for name, (prompts, samples) in BATCHES.items():
            runs = []
            for _ in range(RUNS):
                for i in range(workers):
                    queues[2 * i].put((prompts, samples))
                parts = [queues[2 * i + 1].get() for i in range(workers)]
                runs.append([part for part in parts if part.tokens])
            results += _results(f"cpu/{name}", CPU_MODEL, CPU_VOCABULARY, prompts, samples, 4, runs)
    finally:
        for i, process in enumerate(processes):
            queues[2 * i].put(None)
            process.join(30)
    return results + _beside_plain()


def _beside_plain() -> list[Result]:
    """Both engines in turn, in one process with nothing beside it."""
    results = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for name, (prompts, samples, goal) in BESIDE_PLAIN.items():
            pairs = pool.apply(_pairs, (prompts, samples))
            ours, plain = zip(*pairs, strict=True)
            against = Against("plain eager engine", median(plain))
            ratios = tuple(a / b for a, b in pairs)
            results += [
                Result(f"plain/{name}/speed", "tokens/s", ours, against, median(ratios)),
                Result(f"plain/{name}/ratio", "x", ratios, goal=goal),
            ]
    return results


def _pairs(prompts: int, samples: int) -> list[tuple[float, float]]:
    """Tokens/s of our engine and of the plain one, pair by pair; the order within a pair alternates."""
    torch.set_num_threads(1)
    keep_freed_memory()
    model = random_model(CPU_VOCABULARY, torch.float32, CPU_MODEL.model_copy(update={"sequence_len": 512}))
    engine, plain = Engine(model, stop_tokens=()), PlainEngine(model)
    asked, keys = _asked(prompts, samples, CPU_VOCABULARY)

    def ours(budget: int = NEW) -> float:
        started = time.perf_counter()
        engine.generate(asked, keys, budget, 1.0)
        return prompts * samples * budget / (time.perf_counter() - started)

    def theirs(budget: int = NEW) -> float:
        started = time.perf_counter()
        plain.generate(asked, samples, budget)
        return prompts * samples * budget / (time.perf_counter() - started)

    ours(), theirs(2)  # memory and caches are warm
    pairs = []
    for i in range(PAIRS):
        measured = {f: f() for f in ((ours, theirs) if i % 2 == 0 else (theirs, ours))}
        pairs.append((measured[ours], measured[theirs]))
    return pairs


def _worker(index: int, workers: int, barrier: Any, asked: Any, answers: Any) -> None:
    """One process: generates its share of whatever is asked, all processes at once."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as every rank does
    engine = _engine(CPU_MODEL, CPU_VOCABULARY, torch.device("cpu"))
    while (batch := asked.get()) is not None:
        prompts, samples = batch
        if prompts >= workers:
            share = [(prompts * (index + 1)) // workers - (prompts * index) // workers, samples]
        else:
            share = [prompts, (samples * (index + 1)) // workers - (samples * index) // workers]
        answers.put(_measure(engine, *share, CPU_VOCABULARY, barrier.wait))


def _engine(config: ModelConfig, vocab_size: int, device: torch.device) -> Engine:
    model = Transformer(config, vocab_size, compute_dtype(LaunchConfig(), device))
    model.init_weights(torch.Generator().manual_seed(0))
    return Engine(model.to(device), stop_tokens=())


def _asked(prompts: int, samples: int, vocab_size: int) -> tuple[list[list[int]], list[list[int]]]:
    """Random prompts, and keys for the samples of each."""
    generator = torch.Generator().manual_seed(prompts)
    asked = [torch.randint(vocab_size, (PROMPT,), generator=generator).tolist() for _ in range(prompts)]
    return asked, [[p * samples + n for n in range(samples)] for p in range(prompts)]


def _measure(engine: Engine, prompts: int, samples: int, vocab_size: int, together: Any = lambda: None) -> Measured:
    asked, keys = _asked(prompts, samples, vocab_size)
    rows, device = prompts * samples, engine.model.cos.device
    if rows:
        # Memory and caches are warm, and a GPU's steps recorded.
        engine.generate(asked, keys, NEW if device.type == "cuda" else 2, 1.0)
    together()
    before = _flops_rate(device)
    together()
    first, seconds = _timed(engine, asked, keys, 1), 0.0
    together()
    seconds = _timed(engine, asked, keys, NEW)
    together()
    rate = (before + _flops_rate(device)) / 2
    together()
    return Measured(rows * NEW, seconds, first, rate, _bytes_rate(device))


def _timed(engine: Engine, prompts: list[list[int]], keys: list[list[int]], new: int) -> float:
    if not prompts or not keys[0]:
        return 0.0
    started = time.perf_counter()
    engine.generate(prompts, keys, new, 1.0)
    return time.perf_counter() - started


def _flops_rate(device: torch.device, seconds: float = 1.0, n: int = 2048) -> float:
    """FLOP/s of float32 matrix products, over about as long as the generation takes."""
    a = torch.randn((n, n), device=device)
    b, count, started = torch.empty_like(a), 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.mm(a, a, out=b)
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    return count * 2 * n**3 / (time.perf_counter() - started)


def _bytes_rate(device: torch.device, seconds: float = 0.3, n: int = 1 << 26) -> float:
    """Bytes/s that copying moves, reads and writes together."""
    a = torch.zeros(n // 4, device=device)
    b, count, started = torch.empty_like(a), 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        b.copy_(a)
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    return count * 2 * n / (time.perf_counter() - started)


def _results(
    name: str,
    config: ModelConfig,
    vocab_size: int,
    prompts: int,
    samples: int,
    kv_bytes: int,
    runs: list[list[Measured]],
) -> list[Result]:
    """Of one batch size; each run is the list of its processes' parts."""
    speeds = [sum(p.tokens for p in parts) / max(p.seconds for p in parts) for parts in runs]
    flops = forward_flops(config, vocab_size)
    rates = [sum(p.flops_rate for p in parts) / flops for parts in runs]
    rows = prompts * samples
    per_token = [max(p.seconds for p in parts) / NEW for parts in runs]
    read = step_bytes(config, vocab_size, prompts, rows, kv_bytes)
    shares = [read / step / sum(p.bytes_rate for p in parts) for parts, step in zip(runs, per_token, strict=True)]
    goal = "≥ 0.7" if rows == 1024 else None
    ratio = median(s / r for s, r in zip(speeds, rates, strict=True))
    against = Against("float32 matrix rate / forward FLOPs per token", median(rates))
    return [
        Result(f"{name}/speed", "tokens/s", tuple(speeds), against, ratio, goal),
        Result(f"{name}/first_token", "ms", tuple(1e3 * max(p.first_token for p in parts) for parts in runs)),
        Result(f"{name}/per_token", "ms", tuple(1e3 * step for step in per_token)),
        Result(f"{name}/bandwidth", "of copying", tuple(shares)),
    ]


def _on_gpu() -> list[Result]:
    results, device, vocab_size = [], torch.device("cuda"), 65_536
    for depth, goal in GPU_GOALS.items():
        config = ModelConfig(depth=depth, width_per_layer=64, head_size=128 if depth % 2 == 0 else 64, sequence_len=256)
        engine = _engine(config, vocab_size, device)
        for name, (prompts, samples) in BATCHES.items():
            runs = [[_measure(engine, prompts, samples, vocab_size)] for _ in range(RUNS)]
            found = _results(f"gpu/d{depth}/{name}", config, vocab_size, prompts, samples, 2, runs)
            if name == "256":
                speed = found[0]
                found[0] = Result(f"gpu/d{depth}/256", speed.unit, speed.runs, goal=f"≥ {goal} tokens/s")
            results += found
    return results
