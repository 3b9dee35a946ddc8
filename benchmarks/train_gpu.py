"""Training on one GPU: MFU and tokens per second of d12 and d20, in bfloat16 and with 8-bit products.

The models of the profiles, random tokens, micro-batches as the profiles have them, four to a step. Where no GPU is at
hand the rows say so. `train/mfu` is the loop's own figure: model FLOPs, counted as of bfloat16, by the maker's peak.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median
from typing import Any

from aquarat_core.config import load_profile
from aquarat_core.runtime.scratch import scratch_folder
from benchmarks.harness import Result, run_apart, unmeasured

PROFILES = ("d12", "d20")
GOAL = "≥ 50 %"
STEPS, WARM, PASSES = 14, 4, 4
"""Steps of a run, those of them that are left out, and micro-batches in each."""


def run() -> list[Result]:
    """Trains each model once in each precision, in processes of their own, on the first GPU."""
    import torch

    if not torch.cuda.is_available():
        return [unmeasured(f"GPU/{name}/mfu", "%", "no GPU is at hand", GOAL) for name in PROFILES]
    gpu = torch.cuda.get_device_name(0)
    found = []
    for name in PROFILES:
        for float8 in (False, True):
            with scratch_folder("bench") as folder:
                m = run_apart("benchmarks.train_gpu", {"profile": name, "float8": float8}, folder)
            what = f"{gpu}/{name}/{'float8' if float8 else 'bfloat16'}"
            found += [
                Result(f"{what}/mfu", "%", tuple(100 * x for x in m["mfu"]), goal=None if float8 else GOAL),
                Result(f"{what}/tokens", "tokens/s", tuple(m["tokens"])),
                Result(f"{what}/first step", "s", (m["first"],)),
            ]
    return found


def worker(work: dict[str, Any]) -> None:
    """One run. `work` may name a device and other sizes of the model, which the tests of this bench do."""
    import numpy as np
    import torch

    from aquarat_core.config import LaunchConfig, ModelConfig, TrainConfig, WandbConfig
    from aquarat_core.data.rows import PackedRows
    from aquarat_core.model.transformer import Transformer
    from aquarat_core.tracking.context import DetachedContext
    from aquarat_core.training.callbacks import Callback, TrainingStep
    from aquarat_core.training.loop import train
    from aquarat_core.training.session import training_session

    profile = load_profile(work["profile"])
    base, vocab_size = profile.base_checkpoint, work.get("vocab_size", profile.tokenizer.vocab_size)
    described = ModelConfig(**base.model.model_dump() | work.get("model", {}))
    rows = base.micro_batch_rows * PASSES
    launch = LaunchConfig(nproc=1, device=work.get("device", "cuda"), float8=work["float8"])
    config = TrainConfig(
        steps=STEPS, batch_tokens=rows * described.sequence_len, micro_batch_rows=base.micro_batch_rows,
        eval_every=STEPS + 1, eval_tokens=described.sequence_len, launch=launch, optim=base.optim,
        wandb=WandbConfig(mode="disabled"),
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(vocab_size, size=(2 * rows, described.sequence_len + 1))
    data = PackedRows(ids.astype(np.uint16))
    seen: list[dict[str, float]] = []

    class Observer(Callback):
        name = "observer"

        def after_step(self, step: TrainingStep) -> None:
            seen.append(step.metrics)

    with training_session(DetachedContext(Path(work["out"]).parent), config) as session:
        model = Transformer(described, vocab_size, session.world.compute_dtype)
        model.init_weights(torch.Generator().manual_seed(0))
        model.to(session.world.device)
        train(session, model, data, data, np.ones(vocab_size, np.int32), [Observer()])
    rates = [m["train/tokens_per_second"] for m in seen]
    found = {
        "tokens": rates[WARM:-1],  # the last step is followed by validation, which has kernels of its own to load
        "mfu": [m.get("train/mfu", 0.0) for m in seen][WARM:-1],
        "first": config.batch_tokens / rates[0],
    }
    assert median(found["tokens"]) > 0
    Path(work["out"]).write_text(json.dumps(found))


if __name__ == "__main__":
    worker(json.loads(os.environ["WORK"]))
