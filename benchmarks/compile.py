"""Compiling the training loss on a CPU: seconds to the first step, cold and warm, and differences between the losses.

The function that is compiled on GPUs, by the same calls, in C++ instead of Triton: a model of three layers with every
option on or off, six steps with validation after three and six. Compiled code is kept in a folder made for it, and the
second process finds what the first one left. Graphs are counted, and breaks and compilations after the first step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from aquarat_core.runtime.scratch import scratch_folder
from benchmarks.harness import Against, Result, run_apart

OPTIONS = {
    "classic": {},
    "modern": {
        "window_pattern": "SSL", "value_embeddings": True, "residual_lambdas": True, "smear": True, "backout": True,
        "n_kv_head": 2,
    },
}  # fmt: skip
MODEL = {"depth": 3, "width_per_layer": 32, "head_size": 16, "sequence_len": 256}
VOCABULARY, STEPS, EVERY, ROWS = 100, 6, 3, 4


def run() -> list[Result]:
    """Trains each model three times in processes of their own: not compiled, compiled cold, compiled warm."""
    results = []
    for name, options in OPTIONS.items():
        with scratch_folder("bench") as cache:
            plain, cold, warm = (_start(cache, options, how) for how in ("never", "always", "always"))
        eager = Against("not compiled", plain["first"])
        gap = max(abs(a - b) for a, b in zip(plain["losses"], warm["losses"], strict=True))
        results += [
            Result(f"{name}/first step, nothing kept", "s", (cold["first"],), eager, cold["first"] / plain["first"]),
            Result(f"{name}/first step, code kept", "s", (warm["first"],), eager, warm["first"] / plain["first"]),
            Result(f"{name}/largest difference of a loss", "nats", (gap,), goal="≤ 0.0001 nats"),
            Result(f"{name}/graphs", "", (cold["graphs"],)),
            Result(f"{name}/graph breaks", "breaks", (cold["breaks"],), goal="≤ 0 breaks"),
            Result(f"{name}/compiled after the first step", "graphs", (cold["later"],), goal="≤ 0 graphs"),
        ]
    return results


def _start(cache: Path, options: dict[str, Any], how: str) -> dict[str, Any]:
    kept = {"AQUARAT_CACHE": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "compiled")}
    return run_apart("benchmarks.compile", {"options": options, "compile": how}, cache, env=kept)


def worker(work: dict[str, Any]) -> None:
    import numpy as np
    import torch

    from aquarat_core.config import LaunchConfig, ModelConfig, TrainConfig, WandbConfig
    from aquarat_core.data.rows import PackedRows
    from aquarat_core.model.transformer import Transformer
    from aquarat_core.tracking.context import DetachedContext
    from aquarat_core.training.callbacks import Callback, TrainingStep
    from aquarat_core.training.loop import train
    from aquarat_core.training.session import training_session

    launch = LaunchConfig(nproc=1, device="cpu", dtype="float32", compile=work["compile"])
    T = MODEL["sequence_len"]
    config = TrainConfig(
        steps=STEPS,
        batch_tokens=ROWS * T,
        micro_batch_rows=ROWS,
        eval_every=EVERY,
        eval_tokens=3 * T,
        launch=launch,
        wandb=WandbConfig(mode="disabled"),
    )
    rows = PackedRows(np.random.default_rng(0).integers(VOCABULARY, size=(16, T + 1)).astype(np.uint16))
    losses: list[float] = []
    ends, graphs = [time.perf_counter()], []

    class Observer(Callback):
        name = "observer"

        def after_step(self, step: TrainingStep) -> None:
            losses.append(step.metrics["train/loss"])
            ends.append(time.perf_counter())
            graphs.append(_counted("stats", "unique_graphs"))

    with training_session(DetachedContext(Path(work["out"]).parent), config) as session:
        model = Transformer(ModelConfig(**MODEL | work["options"]), VOCABULARY)
        model.init_weights(torch.Generator().manual_seed(0))
        ends[0] = time.perf_counter()
        train(session, model, rows, rows, np.ones(VOCABULARY, np.int32), [Observer()])
    found = {"losses": losses, "first": ends[1] - ends[0], "graphs": graphs[0], "later": graphs[-1] - graphs[0]}
    Path(work["out"]).write_text(json.dumps(found | {"breaks": _counted("graph_break")}))


def _counted(group: str, name: str | None = None) -> int:
    """What torch's compiler has counted in this process; 0 where it was never imported."""
    utils = sys.modules.get("torch._dynamo.utils")
    counts = utils.counters[group] if utils else {}
    return counts.get(name, 0) if name else sum(counts.values())


if __name__ == "__main__":
    worker(json.loads(os.environ["WORK"]))
