"""Training speed relative to the machine's own matrix products, with curves for float32 and bfloat16.

Depth 4, head size 64, 8,192 rows of embedding and head, rows of 512 tokens, 8,192 tokens a step, generated text. The
rate of a 2048 x 2048 matrix product is measured between the steps, by all ranks at once with their threads, so that
what slows the machine slows both; a run's model FLOP/s are given as a ratio to the float32 one. FLOPs are counted as
`config.accounting` does: 6 for each weight of a product and 12 T C a layer for attention, at their full length.

Two cores can train as one rank of two threads or as two ranks of one. The goal is about two cores, so the better of the
two counts; two ranks are what `launch` does by default, as on a host of GPUs. On GPUs `train_gpu.py` measures.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.training.callbacks import Callback, TrainingStep
from benchmarks import train_gpu
from benchmarks.harness import Against, Result, run_apart

MODEL = {"depth": 4, "width_per_layer": 64, "head_size": 64, "sequence_len": 512}
VOCABULARY, TOKENIZER, BATCH_TOKENS, STEPS, WARM = 8_192, 2_048, 8_192, 40, 3
SAVE_EVERY = 20
RATE_SIZE, RATE_EVERY = 2_048, 4
RUNS = {  # name: dtype, ranks, threads
    "bfloat16, 1 rank x 2 threads": ("bfloat16", 1, 2),
    "bfloat16, 2 ranks x 1 thread (default)": ("bfloat16", 2, 1),
    "float32, 1 rank x 2 threads": ("float32", 1, 2),
}
PARTS = ("data", "forward", "backward", "optimizer", "checkpoint")


def run() -> list[Result]:
    """Trains once in each layout, in processes of its own."""
    with scratch_folder("bench") as scratch:
        _prepare(scratch)
        measured = {name: _start(scratch, *layout) for name, layout in RUNS.items()}
    Console(width=None if sys.stdout.isatty() else 120).print(_curves({n: m["losses"] for n, m in measured.items()}))
    results = [r for name, m in measured.items() for r in _results(name, m)]
    bf16, fp32 = (measured[f"{dtype}, 1 rank x 2 threads"]["losses"] for dtype in ("bfloat16", "float32"))
    gap = sum(a - b for a, b in zip(bf16[-10:], fp32[-10:], strict=True)) / 10
    results.append(Result("loss of bfloat16 less that of float32, last 10 steps", "nats", (gap,)))
    return results + train_gpu.run()


def _results(name: str, m: dict[str, Any]) -> list[Result]:
    low = name.startswith("float32")
    ratio = median(a / b for a, b in zip(m["flops"], m["fp32"], strict=True))
    fp32, bf16 = median(m["fp32"]), median(m["bf16"])
    goal = "≥ 0.63" if low else "≥ 1.25"
    step = median(m["step"])
    return [
        Result(f"{name}/model", "GFLOP/s", tuple(m["flops"]), Against("float32 product", fp32), ratio, goal),
        Result(f"{name}/bfloat16 product", "GFLOP/s", tuple(m["bf16"]), Against("float32 product", fp32), bf16 / fp32),
        Result(f"{name}/tokens", "tokens/s", tuple(BATCH_TOKENS / s for s in m["step"])),
        *(Result(f"{name}/{part}", "s", (m[part],), Against("step", step), m[part] / step) for part in PARTS),
        Result(f"{name}/waiting for data", "%", (100 * m["data"] / step,), goal="≤ 1 %"),
        Result(f"{name}/checkpoint every {SAVE_EVERY} steps", "%", (100 * m["blocked"] / m["total"],), goal="≤ 1 %"),
        Result(f"{name}/first step", "s", (m["first"],)),
        Result(f"{name}/peak memory of a rank", "GB", (m["peak"],)),
    ]


def _curves(losses: dict[str, list[float]]) -> Table:
    table = Table("tokens", *losses, title="training loss at equal tokens, nats")
    for step in range(0, STEPS, 5):
        table.add_row(f"{(step + 1) * BATCH_TOKENS:,}", *(f"{curve[step]:.4f}" for curve in losses.values()))
    table.add_row(f"{STEPS * BATCH_TOKENS:,}", *(f"{curve[-1]:.4f}" for curve in losses.values()))
    return table


def _prepare(folder: Path) -> None:
    """Rows of generated text, packed once for all runs."""
    import numpy as np

    from aquarat_core.config import TokenizerConfig
    from aquarat_core.data.packing import pack_documents
    from aquarat_core.tasks.word_problems import generate_text
    from aquarat_core.text.tokenizer import train_tokenizer

    texts = generate_text(6_000, seed=1)
    tokenizer = train_tokenizer(iter(texts), TokenizerConfig(vocab_size=TOKENIZER))
    packed = pack_documents(
        tokenizer.encode_batch(texts), MODEL["sequence_len"], tokenizer.special("<|bos|>"), TOKENIZER
    )
    np.save(folder / "rows.npy", packed.ids)


def _start(folder: Path, dtype: str, ranks: int, threads: int) -> dict[str, Any]:
    """What a run measured; its micro-batches are all that a rank has of a step."""
    rows = BATCH_TOKENS // MODEL["sequence_len"] // ranks
    work = {"dtype": dtype, "nproc": ranks, "threads": threads, "rows": rows, "folder": str(folder)}
    env = {"OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"}
    return run_apart("benchmarks.train", work, folder, ranks, env)


# --- in the processes that train -------------------------------------------------------------------------------------


class Clock:
    """Seconds spent in methods, per step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def time(self, owner: type, method: str, name: str) -> None:
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - started

        setattr(owner, method, timed)


def worker(work: dict[str, Any]) -> None:
    import numpy as np
    import torch

    from aquarat_core.artifacts.backends import open_backend
    from aquarat_core.checkpointing import Checkpointer, checkpoint_store
    from aquarat_core.config import LaunchConfig, ModelConfig, TrainConfig, WandbConfig
    from aquarat_core.config.accounting import flops_per_token
    from aquarat_core.data.rows import PackedRows
    from aquarat_core.model.transformer import Transformer
    from aquarat_core.tracking.context import DetachedContext
    from aquarat_core.training.loop import train
    from aquarat_core.training.optimizer import ShardedOptimizer
    from aquarat_core.training.session import training_session

    clock = Clock()
    clock.time(PackedRows, "tensors", "data")
    clock.time(Transformer, "loss_sum", "forward")
    clock.time(torch.Tensor, "backward", "backward")
    clock.time(ShardedOptimizer, "step", "optimizer")
    clock.time(Checkpointer, "save", "checkpoint")
    launch = LaunchConfig(nproc=work["nproc"], threads=work["threads"], device="cpu", dtype=work["dtype"])
    rows = PackedRows(np.load(Path(work["folder"]) / "rows.npy"))
    config = TrainConfig(
        steps=STEPS, batch_tokens=BATCH_TOKENS, micro_batch_rows=work["rows"], eval_every=STEPS, eval_tokens=512,
        optim={"embedding_lr": 0.05}, checkpoint={"every_minutes": None, "every_steps": SAVE_EVERY}, launch=launch,
        wandb=WandbConfig(mode="disabled"),
    )  # fmt: skip
    store = open_backend(f"file://{work['folder']}/store")
    ctx = DetachedContext(Path(work["folder"]), checkpoint_store(store, "base_checkpoint", work, {}, "bench"))
    with training_session(ctx, config) as session:
        world = session.world
        model = Transformer(ModelConfig(**MODEL), VOCABULARY, world.compute_dtype)
        model.init_weights(torch.Generator().manual_seed(1))
        a, b = (torch.randn(RATE_SIZE, RATE_SIZE, generator=torch.Generator().manual_seed(i)) for i in range(2))

        def rate(dtype: torch.dtype) -> float:
            """GFLOP/s of all ranks together."""
            x, y = a.to(dtype), b.to(dtype)
            x @ y
            world.sum(torch.zeros(1))  # all at once
            started = time.perf_counter()
            for _ in range(3):
                x @ y
            seconds = torch.tensor((time.perf_counter() - started) / 3, dtype=torch.float64)
            return float(world.sum(2 * RATE_SIZE**3 / seconds)) / 1e9

        recorder = _Recorder(clock, rate, flops_per_token(model.config, VOCABULARY))
        summary = train(session, model, rows, rows, np.ones(VOCABULARY, np.int32), [recorder])
        if world.rank == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
            found = recorder.summary() | {"peak": peak, "blocked": summary["checkpoint_seconds"]}
            Path(work["out"]).write_text(json.dumps(found))


class _Recorder(Callback):
    """Takes the steps' times, and measures the machine's rates every few steps."""

    name = "recorder"

    def __init__(self, clock: Clock, rate: Callable, flops_per_token: float) -> None:
        import torch

        self.clock, self.rate, self.flops = clock, rate, flops_per_token
        self.dtypes = (torch.float32, torch.bfloat16)
        self.losses: list[float] = []
        self.step: list[float] = []
        self.parts: dict[str, list[float]] = defaultdict(list)
        self.rates = [[rate(dtype) for dtype in self.dtypes]]
        self.segments: list[float] = []

    def after_step(self, step: TrainingStep) -> None:
        self.losses.append(step.metrics["train/loss"])
        self.step.append(BATCH_TOKENS / step.metrics["train/tokens_per_second"])
        for part in PARTS:
            self.parts[part].append(self.clock.seconds.pop(part, 0.0))
        if step.done % RATE_EVERY == 0:
            self.rates.append([self.rate(dtype) for dtype in self.dtypes])

    def summary(self) -> dict[str, Any]:
        """Rates are those around each stretch of steps; the first steps, which warm caches, are left out."""
        stretches = [slice(i, i + RATE_EVERY) for i in range(0, STEPS, RATE_EVERY)][1:]
        around = [[(a + b) / 2 for a, b in zip(*pair, strict=True)] for pair in pairwise(self.rates[1:])]
        flops = [RATE_EVERY * BATCH_TOKENS * self.flops / sum(self.step[part]) / 1e9 for part in stretches]
        return {
            "losses": self.losses,
            "first": self.step[0],
            "step": self.step[WARM:],
            "total": sum(self.step),
            "flops": flops,
            "fp32": [pair[0] for pair in around],
            "bf16": [pair[1] for pair in around],
            **{part: sum(seconds[WARM:]) / len(seconds[WARM:]) for part, seconds in self.parts.items()},
        }


if __name__ == "__main__":
    worker(json.loads(os.environ["WORK"]))
