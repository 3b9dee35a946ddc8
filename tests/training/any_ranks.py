"""One training run and one of RL on any number of ranks, for torchrun: `any_ranks.py FOLDER RL_STOP TRAIN_KILL`.

Both continue what FOLDER holds. RL ends by SIGTERM to the last rank after step RL_STOP, training by SIGKILL to it after
step TRAIN_KILL, unless these are 0; rank 0 then leaves both traces in FOLDER.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aquarat_core.artifacts.backends import open_backend
from aquarat_core.checkpointing import checkpoint_store
from aquarat_core.config import LaunchConfig, RLConfig, TrainConfig
from aquarat_core.data.rows import PackedRows
from aquarat_core.rl.trainer import Trainer
from aquarat_core.runtime.distributed import World, distributed_world
from aquarat_core.runtime.preemption import Preempted
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.training.loop import train
from tests.factories import AQUA, context, examples, odd_lengths, random_ids, random_model, session, tokenizer
from tests.folders import files_below
from tests.patience import wait_until
from tests.training.two_ranks import flat, without_times

STEPS, ROWS, RL_STEPS = 12, 7, 6


class Disturbed:
    """A stage's context in which the last rank gets `sent` while it completes step `at`."""

    def __init__(self, world: World, folder: Path, stage: str, at: int, sent: signal.Signals) -> None:
        self._inner, self._last, self._at, self._sent = context(folder), world.rank + 1 == world.size, at, sent
        self._folder = folder
        self.work = checkpoint_store(open_backend(f"file://{folder}/store"), stage, {}, {}, "code")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def progress(self, done: int, total: int, unit: str = "steps", **_: float) -> None:
        if self._last and done == self._at:
            if self._sent == signal.SIGKILL:
                wait_until(lambda: self._is_saved(done - 1), 60, "the step before is saved, in the background")
            os.kill(os.getpid(), self._sent)

    def _is_saved(self, step: int) -> bool:
        return any(
            path.name == "commit.json" and path.parent.name.startswith(f"{step:08d}")
            for path in files_below(self._folder)
        )


class Seen:
    """Rows, and which of them this rank was asked for, step by step."""

    def __init__(self, rows: PackedRows) -> None:
        self._rows, self.asked = rows, list[list[int]]()

    def __len__(self) -> int:
        return len(self._rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def tensors(self, rows: np.ndarray, device: Any) -> Any:
        self.asked.append(rows.tolist())
        return self._rows.tensors(rows, device)


def packed_rows() -> PackedRows:
    """Rows with unequal numbers of targets."""
    return PackedRows(random_ids(24, 33).numpy(), np.arange(33)[None, :] < (np.arange(24)[:, None] * 7) % 31 + 3)


def trained(world: World, folder: Path, kill: int = 0, steps: int = STEPS, rows: int = ROWS) -> dict[str, Any]:
    """Steps of seven rows, which two or three ranks cannot divide; a checkpoint every second step."""
    config = TrainConfig(
        steps=steps, batch_tokens=rows * 64, micro_batch_rows=2, eval_every=4, eval_tokens=7 * 64,
        optim={"lr_scale": 0.05}, checkpoint={"every_steps": 2, "every_minutes": None},
    )  # fmt: skip
    model, seen = random_model().to(world.device), Seen(packed_rows())
    log = MetricLog(None if world.rank else folder / "train.jsonl", None)
    ctx = Disturbed(world, folder, "base_checkpoint", kill, signal.SIGKILL)
    train(session(config, ctx, log, world), model, seen, packed_rows(), np.arange(100, dtype=np.int32) % 4)
    log.close()
    return {"steps": trace(world, folder / "train.jsonl"), "weights": flat(model).tolist(), "asked": seen.asked}


def reinforced(
    world: World, folder: Path, stop: int = 0, steps: int = RL_STEPS, prompts: int = 4
) -> dict[str, Any] | None:
    """RL with a curriculum and replaced groups; None if it was stopped."""
    config = RLConfig(
        steps=steps, prompts_per_step=prompts, group_size=4, max_new_tokens=24, micro_batch_rows=5, eval_every=3,
        dynamic_sampling_rounds=1, curriculum={"enabled": True}, min_parse_rate=0.0, min_first_reward=0.0,
        max_first_reward=1.0, max_zero_variance=1.0, publish="last", objective={"kl": "k3"},
        optim={"lr_scale": 0.05}, checkpoint={"every_minutes": None},
    )  # fmt: skip
    policy = random_model(tokenizer().vocab_size, sequence_len=256).to(world.device)
    trainer = Trainer(policy, tokenizer(), config, world, AQUA, examples()[:12], examples()[12:19], odd_lengths)
    groups: list[list[Any]] = []
    collect = trainer.sampler.collect

    def noted(asked: Any, step: int) -> Any:
        found = collect(asked, step)
        groups.extend([step, g.example.id, [c.tokens for c in g.completions]] for g in found)
        return found

    trainer.sampler.collect = noted
    log = MetricLog(None if world.rank else folder / "rl.jsonl", None)
    try:
        trainer.run(session(config, Disturbed(world, folder, "rl_checkpoint", stop, signal.SIGTERM), log, world))
    except Preempted:
        return None
    finally:
        log.close()
    sampled = sorted(world.gather(groups))
    return {"steps": trace(world, folder / "rl.jsonl"), "weights": flat(policy).tolist(), "sampled": sampled}


def trace(world: World, path: Path) -> list[dict[str, Any]]:
    return [] if world.rank else [without_times(json.loads(line)) for line in path.read_text().splitlines()]


def measure(world: World, folder: Path, stop: int, kill: int) -> Mapping[str, Any]:
    found: dict[str, Any] = {"rl": reinforced(world, folder, stop)}
    found["train"] = trained(world, folder, kill)
    found["asked"] = world.gather([found["train"].pop("asked")])
    few = folder / "few"
    few.mkdir(exist_ok=True)
    found["few"] = [trained(world, few, steps=2, rows=2), reinforced(world, few, steps=2, prompts=2)]
    return found


if __name__ == "__main__":
    out, stop_at, kill_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with distributed_world(LaunchConfig(device="cpu", dtype="float32", threads=1)) as joined:
        measured = measure(joined, out, stop_at, kill_at)
        if joined.rank == 0:
            (out / "measured.json").write_text(json.dumps(measured))
