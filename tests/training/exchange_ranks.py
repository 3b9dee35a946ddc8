"""The exchange between ranks, for torchrun: `exchange_ranks.py FOLDER` leaves rank 0's measurements in FOLDER.

With `fail` after the folder, the last rank fails in the middle of a backward pass.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from aquarat_core.config import ConfigError, LaunchConfig, OptimConfig, TrainConfig
from aquarat_core.data.rows import PackedRows
from aquarat_core.model import fused
from aquarat_core.model.transformer import Transformer
from aquarat_core.optim.groups import parameter_groups
from aquarat_core.runtime import distributed
from aquarat_core.runtime.distributed import World, distributed_world
from aquarat_core.runtime.preemption import Preempted
from aquarat_core.training import loss as loss_module
from aquarat_core.training.buckets import GradientExchange
from aquarat_core.training.loop import train
from aquarat_core.training.loss import accumulate_loss
from aquarat_core.training.optimizer import ShardedOptimizer
from aquarat_core.training.shards import bytes_across
from tests.factories import random_ids, random_model, session
from tests.model.test_transformer import MODERN
from tests.training.two_ranks import Interrupted, flat

SMALL = 8_000
"""Bytes of a bucket, so that there are several."""
ROWS = 4
"""Of a rank, in two micro-batches."""


def with_exchange(world: World, **fields: Any) -> World:
    return replace(world, exchange=replace(world.exchange, **fields))


def model_of(world: World) -> Transformer:
    return random_model(dtype=world.compute_dtype, depth=3, **MODERN).to(world.device)


def rows_of(world: World, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Different on each rank."""
    ids = random_ids(rows, 65, seed=world.rank).to(world.device)
    return ids[:, :-1], ids[:, 1:]


class Exchanged:
    """The summed gradients of this rank's shards after two micro-batches, and how they got there."""

    def __init__(self, world: World, rows: int = ROWS, compiled: bool = False) -> None:
        model = model_of(world)
        loss = loss_module._compiled(model) if compiled else model.loss_sum
        exchange = GradientExchange(parameter_groups(model, OptimConfig()), world)
        rest = exchange.send_rest
        self.sent: list[int] = []
        """Buckets sent when each pass comes to the first block, and when the passes are over."""

        def look(_: Any = None) -> None:
            self.sent.append(exchange.sent)

        model.blocks[0].attention.q.weight.register_post_accumulate_grad_hook(look)
        exchange.send_rest = lambda: (look(), rest())[1]
        accumulate_loss(loss, *rows_of(world, rows), 2, world, exchange=exchange)
        grads = [grad.clone() for grad in exchange.gradients()]
        self.n_buckets = len(exchange.buckets)
        self.shards = {
            (shard.name, shard.start, shard.stop): grad for shard, grad in zip(exchange.mine, grads, strict=True)
        }

    def same_bits(self, whole: dict[str, Tensor]) -> bool:
        return all(torch.equal(grad, whole[name][a:b]) for (name, a, b), grad in self.shards.items())

    def largest_difference(self, whole: dict[str, Tensor]) -> float:
        """From the gradients, as a share of the longest gradient of a parameter."""
        length = max(float(grad.norm()) for grad in whole.values())
        return max(float((grad - whole[name][a:b]).norm()) / length for (name, a, b), grad in self.shards.items())


def summed_afterwards(world: World, rows: int = ROWS) -> dict[str, Tensor]:
    """The same without the exchange: gathered from all ranks after the backward pass, and added in their order."""
    model = model_of(world)
    accumulate_loss(model.loss_sum, *rows_of(world, rows), 2, world)
    found: dict[str, Tensor] = {}
    for name, param in model.named_parameters():
        mine = param.grad if param.grad is not None else torch.zeros_like(param)
        everyones = [torch.empty_like(param) for _ in range(world.size)]
        dist.all_gather(everyones, mine)
        found[name] = sum(everyones[1:], everyones[0])
    return found


def gradients(world: World) -> dict[str, Any]:
    """Whether gradients are those that are summed afterwards, in the ways in which they come about."""
    small, whole = with_exchange(world, bucket_bytes=SMALL), summed_afterwards(world)
    in_buckets, at_once = Exchanged(small), Exchanged(with_exchange(world, bucket_bytes=1e12))
    idle = 0 if world.rank + 1 == world.size else ROWS
    found: dict[str, Any] = {
        "buckets": in_buckets.n_buckets,
        "sent": in_buckets.sent,
        "at_once_buckets": at_once.n_buckets,
        "buckets_equal": on_all(world, in_buckets.same_bits(whole)),
        "at_once_equal": on_all(world, at_once.same_bits(whole)),
        "one_rank_without_rows_equal": on_all(world, Exchanged(small, idle).same_bits(summed_afterwards(world, idle))),
        "nobody_with_rows_equal": on_all(world, Exchanged(small, 0).same_bits(summed_afterwards(world, 0))),
    }
    fused.enabled = False
    found["eager_equal"] = on_all(world, Exchanged(small).same_bits(summed_afterwards(world)))
    fused.enabled = True
    loss_module.BACKEND = "aot_eager"
    compiled = Exchanged(small, compiled=True)
    found["compiled_sent"] = compiled.sent
    found["compiled_difference"] = largest(world, compiled.largest_difference(whole))
    return found


def on_all(world: World, holds: bool) -> bool:
    return float(world.sum(torch.tensor(float(holds)))) == world.size


def largest(world: World, value: float) -> float:
    return max(world.gather([value]))


def trained(world: World, folder: Path, interrupted: int | None = None) -> list[str]:
    """Six steps, SIGTERM to the last rank after step `interrupted`; what was said then, or the weights' hash, of every
    rank."""
    folder.mkdir(exist_ok=True)
    rows = PackedRows(random_ids(24, 65).numpy())
    per_step = 12 * 64
    config = TrainConfig(
        steps=6, batch_tokens=per_step, micro_batch_rows=1, eval_every=3, eval_tokens=128,
        launch={"gather_dtype": str(world.exchange.gather_dtype).removeprefix("torch.")},
    )  # fmt: skip
    ctx = Interrupted(world, folder, interrupted)
    model = model_of(world)
    try:
        train(session(config, ctx, world=world), model, rows, rows, np.ones(100, np.int32))
        end = hashlib.sha256(flat(model).tobytes()).hexdigest()
    except Preempted as e:
        end = str(e)
    return world.gather([end])


def weights(world: World, folder: Path) -> dict[str, Any]:
    """Weights at the end in both types of gathering, and after an interruption."""
    world = with_exchange(replace(world, compute_dtype=torch.bfloat16), bucket_bytes=SMALL)
    rounded = with_exchange(world, gather_dtype=torch.bfloat16)
    return {
        "float32": trained(world, folder / "float32"),
        "bfloat16": trained(rounded, folder / "bfloat16"),
        "stopped": trained(rounded, folder / "resumed", 3),
        "resumed": trained(rounded, folder / "resumed"),
    }


def rounding(world: World) -> dict[str, Any]:
    """After two steps: whether ranks have the same weights, rounded and not, and the owners float32 ones."""
    world = with_exchange(replace(world, compute_dtype=torch.bfloat16), bucket_bytes=SMALL, gather_dtype=torch.bfloat16)
    model = model_of(world)
    optimizer = ShardedOptimizer(model, OptimConfig(warmdown=0.0), 10, world)
    for step in range(2):
        accumulate_loss(model.loss_sum, *rows_of(world), 2, world, exchange=optimizer.exchange)
        optimizer.step(step)
    during = hash_of(model)
    rounded = {name for name, p in model.named_parameters() if torch.equal(p, p.to(torch.bfloat16).float())}
    optimizer.finish()
    finished = {name for name, p in model.named_parameters() if torch.equal(p, p.to(torch.bfloat16).float())}
    return {
        "during": world.gather([during]),
        "finished": world.gather([hash_of(model)]),
        "rounded": sorted(rounded - finished),
        "never_rounded": sorted(name for name, _ in model.named_parameters() if name not in rounded),
    }


def hash_of(model: Transformer) -> str:
    return hashlib.sha256(flat(model).tobytes()).hexdigest()


@contextmanager
def messages_only(rank: int | None = None) -> Generator[None]:
    """The ranks, or one of them, cannot make memory that others can open, so all send messages."""
    original = os.memfd_create

    def refuse(*_: Any) -> int:
        raise OSError("no memory to share")

    if rank is None or int(os.environ["RANK"]) == rank:
        os.memfd_create = refuse
    try:
        yield
    finally:
        os.memfd_create = original


def in_both_ways(world: World, folder: Path) -> dict[str, Any]:
    """The same training through shared memory and with messages, in both types of weights."""
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        small = with_exchange(replace(world, compute_dtype=torch.bfloat16), bucket_bytes=SMALL, gather_dtype=dtype)
        shared = trained(small, folder / f"{dtype}-shared")
        with messages_only(rank=world.size - 1):
            sent = trained(small, folder / f"{dtype}-sent")
            shares = GradientExchange(parameter_groups(model_of(world), OptimConfig()), small).shares_memory
        found[str(dtype)] = {"shared": shared, "sent": sent, "shares_without": world.gather([shares])}
    shares = GradientExchange(parameter_groups(model_of(world), OptimConfig()), world).shares_memory
    mapped = Path("/proc/self/maps").read_text().count("aquarat-exchange")
    descriptors = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    open_still = sum("aquarat-exchange" in link for link in descriptors)
    return found | {"shares": world.gather([shares]), "mapped": mapped, "open": world.gather([open_still])}


def traffic(world: World) -> dict[str, Any]:
    """Bytes that all ranks send in a step over the loopback interface, counted and by the formula."""
    shared = _traffic(world)
    with messages_only():
        return {"messages": _traffic(world), "shared": shared}


def _traffic(world: World) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        bf16 = replace(world, compute_dtype=torch.bfloat16)
        model = random_model(vocab_size=4_000, dtype=torch.bfloat16, depth=4, width_per_layer=32, head_size=16)
        optimizer = ShardedOptimizer(
            model, OptimConfig(), 10, with_exchange(bf16, bucket_bytes=5e5, gather_dtype=dtype)
        )
        inputs, targets = rows_of(world)
        before = 0
        for step in range(4):
            accumulate_loss(model.loss_sum, inputs, targets, ROWS, world, exchange=optimizer.exchange)
            optimizer.step(step)
            if step == 0:
                before = sent_over_loopback(world)
        counted = (sent_over_loopback(world) - before) / 3
        expected = world.size * bytes_across(optimizer.exchange.buckets, world.size, 1, gather_bytes=size)
        found[str(dtype)] = [counted, expected]
    return found


def sent_over_loopback(world: World) -> int:
    """Bytes of all processes in this network namespace, when all ranks have come here."""
    world.sum(torch.zeros(1))
    lines = Path("/proc/net/dev").read_text().splitlines()
    counted = next(int(line.split()[9]) for line in lines if line.split(":")[0].strip() == "lo")
    world.sum(torch.zeros(1))
    return counted


def refusals(world: World) -> dict[str, list[str]]:
    """What every rank is told about options that cannot apply."""

    def told(launch: LaunchConfig) -> list[str]:
        try:
            distributed._exchange(launch, world)
        except ConfigError as e:
            return world.gather([str(e)])
        return world.gather(["nothing"])

    found = {
        "float32": told(LaunchConfig(gather_dtype="bfloat16")),
        "one_host": told(LaunchConfig(two_level=True)),
    }
    os.environ["LOCAL_WORLD_SIZE"] = "1" if world.rank == 0 else str(world.size - 1)
    found["unequal_hosts"] = told(LaunchConfig(two_level=True))
    return found


def fail_within_a_pass(world: World) -> None:
    """The last rank fails when some of its buckets are on their way."""
    model = model_of(world)
    exchange = GradientExchange(parameter_groups(model, OptimConfig()), with_exchange(world, bucket_bytes=SMALL))

    def fail(_: Tensor) -> None:
        assert exchange.sent > 1
        raise ValueError("a failure in the middle of the backward pass")

    if world.rank + 1 == world.size:
        model.blocks[0].attention.q.weight.register_post_accumulate_grad_hook(fail)
    accumulate_loss(model.loss_sum, *rows_of(world), ROWS, world, exchange=exchange)
    exchange.gradients()


def measure(world: World, folder: Path) -> dict[str, Any]:
    return {
        "traffic": traffic(world),
        "gradients": gradients(world),
        "rounding": rounding(world),
        "weights": weights(world, folder),
        "both_ways": in_both_ways(world, folder),
        "refusals": refusals(world),
    }


def two_level(world: World, folder: Path) -> dict[str, Any]:
    """On two hosts with two ranks each: the gradients and the weights."""
    small = with_exchange(world, bucket_bytes=SMALL)
    found = Exchanged(small)
    bf16 = with_exchange(replace(small, compute_dtype=torch.bfloat16), gather_dtype=torch.bfloat16)
    return {
        "groups": [dist.get_world_size(group) for group in world.exchange.groups],
        "buckets": found.n_buckets,
        "sent": found.sent,
        "difference": largest(world, found.largest_difference(summed_afterwards(world))),
        "weights": trained(small, folder / "float32"),
        "again": trained(small, folder / "again"),
        "bfloat16": trained(bf16, folder / "bfloat16"),
    }


if __name__ == "__main__":
    out, what = Path(sys.argv[1]), (sys.argv[2:] or ["measure"])[0]
    launch = LaunchConfig(device="cpu", dtype="float32", threads=1, two_level=what == "two_level")
    with distributed_world(launch) as joined:
        if what == "fail":
            fail_within_a_pass(joined)
        measured = (two_level if what == "two_level" else measure)(joined, out)
        if joined.rank == 0:
            (out / "measured.json").write_text(json.dumps(measured))
