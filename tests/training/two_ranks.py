"""Everything that ranks do together, for torchrun: `two_ranks.py FOLDER [DEVICE]` leaves rank 0's measurements in
FOLDER."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aquarat_core.artifacts.backends import open_backend
from aquarat_core.checkpointing import checkpoint_store
from aquarat_core.config import LaunchConfig, OptimConfig, RLConfig, TrainConfig
from aquarat_core.data.rows import PackedRows
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.trainer import Trainer
from aquarat_core.rollout.batch import Batch
from aquarat_core.runtime.distributed import World, distributed_world
from aquarat_core.runtime.preemption import Preempted, Stop
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.training.loop import train
from aquarat_core.training.optimizer import ShardedOptimizer
from tests.factories import (
    AQUA,
    calling_model,
    context,
    examples,
    odd_lengths,
    random_ids,
    random_model,
    session,
    tokenizer,
)

TIMES = ("tokens_per_second", "time/", "flops", "seconds", "wait_share")


def flat(model: Transformer) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).cpu().numpy()


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not any(t in name for t in TIMES)}


class Interrupted:
    """A stage's context in which the last rank is sent SIGTERM while it takes step `at`."""

    def __init__(self, world: World, folder: Path, at: int | None) -> None:
        self._inner, self._last, self._at = context(folder), world.rank + 1 == world.size, at
        self.work = checkpoint_store(open_backend(f"file://{folder}/store"), "base_checkpoint", {}, {}, "code")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def progress(self, done: int, total: int, unit: str = "steps", **_: float) -> None:
        if self._last and done == self._at:
            os.kill(os.getpid(), signal.SIGTERM)


def half(world: World, folder: Path) -> str:
    """Train until SIGTERM after step 4 leaves the state in `folder`; what the stage says."""
    try:
        training(world, folder, Interrupted(world, folder, at=4))
    except Preempted as e:
        return str(e)
    raise AssertionError("it was not stopped")


class SignalledRows:
    """Rows; when this rank asks for those of step `at`, it is sent SIGTERM. With `waiting`, they are not there yet."""

    def __init__(self, rows: PackedRows, at: int, waiting: bool) -> None:
        self._rows, self._at, self._waiting, self._step = rows, at, waiting, 0

    def __len__(self) -> int:
        return len(self._rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def hold(self, chunks: Sequence[int], ahead: Sequence[int], stop: Stop) -> None:
        assert {*chunks, *ahead} == {0}, "the rows are one chunk"
        self._step += 1
        if self._waiting and self._step == self._at:
            os.kill(os.getpid(), signal.SIGTERM)
            while not stop():
                time.sleep(0.01)

    def tensors(self, rows: np.ndarray, device: torch.device) -> Any:
        if self._step == self._at:
            assert not self._waiting, "it asks for rows that are not there"
            os.kill(os.getpid(), signal.SIGTERM)
        return self._rows.tensors(rows, device)


def mid_step(world: World, folder: Path) -> list[Any]:
    """What training says that the last rank stops in its sixth step, and what it ends with when started again; the same
    for a rank that waits for its rows."""
    found: list[Any] = []
    for name, waiting in (("mid", False), ("waiting", True)):
        (folder / name).mkdir(exist_ok=True)
        ctx, said = Interrupted(world, folder / name, None), ""
        try:
            training(world, folder / name, ctx, (6, waiting) if world.rank + 1 == world.size else None)
        except Preempted as e:
            said = str(e)
        _, weights = training(world, folder / name, ctx)
        found += [said, hashlib.sha256(weights.tobytes()).hexdigest()]
    return found


def sampled(world: World, folder: Path, signalled: bool) -> tuple[str, list[dict[str, Any]]]:
    """Four RL steps, the last rank's third one stopped between two harvests of its rollout; a hash of the weights, or
    what was said, and the rows of rank 0."""
    folder.mkdir(exist_ok=True)
    config = RLConfig(
        steps=4, prompts_per_step=4, group_size=4, max_new_tokens=32, micro_batch_rows=5, eval_every=2,
        dynamic_sampling_rounds=1, curriculum={"enabled": True}, min_parse_rate=0.0, min_first_reward=0.0,
        max_first_reward=1.0, max_zero_variance=1.0, publish="last", checkpoint={"every_minutes": None},
    )  # fmt: skip
    policy = random_model(tokenizer().vocab_size, sequence_len=256).to(world.device)
    trainer = Trainer(policy, tokenizer(), config, world, AQUA, examples()[:12], examples()[12:20], odd_lengths)
    groups, harvest, harvests = trainer.sampler.collect, Batch.harvest, [-1]

    def counted_groups(asked: Any, step: int) -> Any:
        if signalled and step == 2 and world.rank + 1 == world.size:
            harvests[0] = max(harvests[0], 0)
        return groups(asked, step)

    def counted_harvest(self: Batch) -> int:
        if harvests[0] >= 0:
            harvests[0] += 1
            if harvests[0] == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        return harvest(self)

    trainer.sampler.collect, Batch.harvest = counted_groups, counted_harvest
    log = MetricLog(None if world.rank else folder / "metrics.jsonl", None)
    try:
        trainer.run(session(config, Interrupted(world, folder, None), log, world))
        end = hashlib.sha256(flat(policy).tobytes()).hexdigest()
    except Preempted as e:
        end = str(e)
    finally:
        Batch.harvest = harvest
        log.close()
    lines = (folder / "metrics.jsonl").read_text().splitlines() if world.rank == 0 else []
    return end, [without_times(json.loads(line)) for line in lines]


def mid_rollout(world: World, folder: Path) -> list[Any]:
    """An undisturbed run, one stopped in the middle of sampling, and that one started again."""
    plain = sampled(world, folder / "rl", signalled=False)
    said, _ = sampled(world, folder / "rl_stopped", signalled=True)
    return [plain, said, sampled(world, folder / "rl_stopped", signalled=False)]


def training(
    world: World, folder: Path, ctx: Any = None, signalled: tuple[int, bool] | None = None
) -> tuple[dict[str, Any], np.ndarray]:
    """Eight steps on rows with unequal numbers of targets; validation rows that do not divide by the ranks.

    At small rates: Muon computes in bfloat16, so at large ones the last bit of a sum over ranks grows visible.
    """
    mask = np.arange(33)[None, :] < (np.arange(24)[:, None] * 7) % 31 + 3
    rows = PackedRows(random_ids(24, 33).numpy(), mask)
    config = TrainConfig(
        steps=8, batch_tokens=8 * 32, micro_batch_rows=2, eval_every=4, eval_tokens=7 * 32, optim={"lr_scale": 0.05}
    )
    model = random_model().to(world.device)
    log = MetricLog(None if world.rank else folder / "metrics.jsonl", None)
    token_bytes = np.arange(100, dtype=np.int32) % 4
    trained = SignalledRows(rows, *signalled) if signalled else rows
    summary = train(session(config, ctx or context(folder), log, world), model, trained, rows, token_bytes)
    log.close()
    text = (folder / "metrics.jsonl").read_text() if world.rank == 0 else ""
    steps = [without_times(json.loads(line)) for line in text.splitlines()]
    return {"steps": steps, "summary": without_times(summary)}, flat(model)


def reinforcement(world: World) -> tuple[list[dict[str, float]], np.ndarray]:
    """Three steps with calls of the calculator, on a reward that random text can earn: one for an odd number of
    characters."""
    config = RLConfig(
        steps=3, prompts_per_step=4, group_size=4, max_new_tokens=10, calculator=True, micro_batch_rows=5,
        optim={"grad_clip": None}, dynamic_sampling_rounds=1, curriculum={"enabled": True},
        objective={"updates_per_batch": 2, "kl": "k3"},
    )  # fmt: skip
    policy = calling_model().to(world.device)
    trainer = Trainer(policy, tokenizer(), config, world, AQUA, examples()[:12], examples()[12:20], odd_lengths)
    steps = [without_times(trainer.step(n)[0] | trainer.probe_metrics()) for n in range(3)]
    return steps, flat(trainer.policy)


def distilled(world: World) -> tuple[list[dict[str, float]], str]:
    """Two steps of self-distillation from an average, without any reward, and a hash of the policy and its teacher."""
    config = RLConfig(
        steps=2, prompts_per_step=4, group_size=4, max_new_tokens=8, micro_batch_rows=5, min_parse_rate=0.0,
        optim={"grad_clip": None}, distillation={"teacher": "average", "average_decay": 0.5},
    )  # fmt: skip
    policy = random_model(tokenizer().vocab_size, sequence_len=384).to(world.device)
    trainer = Trainer(policy, tokenizer(), config, world, AQUA, examples()[:12], examples()[12:20])
    steps = [without_times(trainer.step(n)[0]) for n in range(2)]
    weights = np.concatenate([flat(policy), flat(trainer.optimizer.teacher.model)])
    return steps, hashlib.sha256(weights.tobytes()).hexdigest()


def silence(world: World) -> dict[str, Any]:
    """What moves after two steps: when no rank has a gradient, and when rank 0 alone has one, of half of a table."""
    model = random_model().to(world.device)
    optimizer = ShardedOptimizer(model, OptimConfig(warmdown=0.0, weight_decay=0.1), 100, world)
    generator = torch.Generator().manual_seed(5)
    for step in range(2):
        for parameter in optimizer.parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(world.device) / world.size
        optimizer.step(step)
    before = flat(model)
    silent = optimizer.step(2)
    still = bool((flat(model) == before).all())
    tables = {name: model.get_parameter(name).detach().clone() for name in ("embedding.weight", "head.weight")}
    model.embedding.weight.grad = torch.zeros_like(model.embedding.weight)
    if world.rank == 0:
        model.embedding.weight.grad[0, 0] = 1.0
    optimizer.step(3)
    moved = {name: int((model.get_parameter(name) != table).any(1).sum()) for name, table in tables.items()}
    return {"still": still, "silent": silent["train/silent_steps"], "moved": moved, "weights": flat(model).tolist()}


def measure(world: World, folder: Path) -> dict[str, Any]:
    """Two identical training runs, three RL steps and the collectives, as rank 0 sees them."""
    first, weights = training(world, folder)
    second, again = training(world, folder)
    rl_steps, rl_weights = reinforcement(world)
    distilled_steps, distilled_hash = distilled(world)
    hashes = [hashlib.sha256(w.tobytes()).hexdigest() for w in (weights, again, rl_weights)]
    if world.rank == 0:
        np.savez(folder / "weights.npz", training=weights, rl=rl_weights)
    return {
        "first": first,
        "second": second,
        "rl": rl_steps,
        "distilled": distilled_steps,
        "distilled_hashes": world.gather_to_rank0([distilled_hash]),
        "mid_step": world.gather_to_rank0([mid_step(world, folder)]),
        "mid_rollout": world.gather_to_rank0([mid_rollout(world, folder)]),
        "stopped": world.gather_to_rank0([half(world, folder)]),
        "hashes": world.gather_to_rank0([hashes]),
        "sum": world.sum(torch.tensor([world.rank + 1.0, 10.0], device=world.device)).tolist(),
        "shares": world.gather_to_rank0([world.shard(list(range(7)))]),
        "gathered": world.gather_to_rank0([{"rank": world.rank, "text": "ü" * 5 * world.rank}] * (world.rank + 1)),
        "nothing": world.gather_to_rank0([]),
        "silence": silence(world),
    }


if __name__ == "__main__":
    out, device = Path(sys.argv[1]), (sys.argv[2:] or ["cpu"])[0]
    with distributed_world(LaunchConfig(device=device, dtype="float32", threads=1)) as joined:
        measured = measure(joined, out)
        if joined.rank == 0:
            (out / "measured.json").write_text(json.dumps(measured))
        else:
            assert measured["gathered"] == [], "only rank 0 is given what is gathered"
