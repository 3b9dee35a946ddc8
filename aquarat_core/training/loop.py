"""Training on packed rows: pretraining, mid-training and SFT."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from aquarat_core.config import TrainConfig
from aquarat_core.config.accounting import flops_per_token
from aquarat_core.data.rows import EpochShuffle, Rows, TrainingRows
from aquarat_core.model.bits_per_byte import score_rows
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.hardware import deterministic, gc_disabled, peak_flops
from aquarat_core.training.callbacks import Callback, LatestLoss, Throughput, Validation
from aquarat_core.training.loss import accumulate_loss, loss_function
from aquarat_core.training.optimizer import ShardedOptimizer
from aquarat_core.training.preflight import check_run, out_of_memory_explained
from aquarat_core.training.session import TrainingSession

HEADLINES = ("train/loss", "val/bpb", "train/tokens_per_second", "train/lr_factor", "time/eta")
"""Metrics that are reported at each step, the first three also on a terminal."""


def train(
    session: TrainingSession[TrainConfig],
    model: Transformer,
    rows: TrainingRows,
    validation: Rows,
    token_bytes: np.ndarray,
    callbacks: Sequence[Callback] = (),
) -> dict[str, float]:
    """Train `model` in place until `config.steps` steps are done, continuing an earlier start; returns the run's
    summary.

    Each rank gets its share of each step's rows; shares may differ by a row or be empty. The loss is the mean over all
    target tokens of the step, however it is divided into micro-batches and ranks. `callbacks` are called after
    validation, before the step's metrics are recorded. The metric `time/data` has the seconds until a step's rows were
    there.
    """
    config, world = session.config, session.world
    check_run(model, config, world)
    rows_per_step = config.batch_tokens // model.config.sequence_len
    order = EpochShuffle(rows.chunk_rows, config.seed)
    per_pass = min(config.micro_batch_rows, world.largest_share(rows_per_step))
    repeatable = partial(deterministic, config.launch.deterministic, world.device)
    with repeatable(), out_of_memory_explained(config):
        loss_sum = loss_function(model, config.launch, world, per_pass, session.ctx.log)
    optimizer = ShardedOptimizer(model, config.optim, config.steps, world)
    latest, throughput = LatestLoss(), _throughput(model, config, world)
    held_out = _validation(model, validation, token_bytes, config, world)
    state, watching = {"model": model}, (latest, throughput, held_out, *callbacks)
    with (
        gc_disabled(),
        out_of_memory_explained(config),
        session.loop(state, {"updater": optimizer}, watching, HEADLINES) as loop,
    ):
        for step in loop:
            rows.hold(*order.chunks(step.index, rows_per_step, config.steps), loop.stop)
            mine = order.rows(step.index, rows_per_step)[world.rank :: world.size]
            # A rank without rows, or one that stops before they are here, takes part in what the ranks do together.
            none = loop.stop() or not len(mine)
            inputs, targets = _no_rows(model, world) if none else rows.tensors(mine, world.device)
            waited = step.elapsed
            with repeatable():
                rows_at_once, exchange = config.micro_batch_rows, optimizer.exchange
                loss = accumulate_loss(loss_sum, inputs, targets, rows_at_once, world, loop.stop, exchange)
            updated = optimizer.step(step.index, loop.stop)
            step.metrics |= {"train/loss": float(loss), **updated, "time/data": waited}
    optimizer.finish()
    tokens = config.steps * config.batch_tokens
    return {
        "train_loss": latest.loss,
        **{name.replace("/", "_"): value for name, value in held_out.scores.items()},
        "steps": config.steps,
        "tokens": tokens,
        "epochs": config.steps * rows_per_step / len(rows),
        "tokens_per_second": tokens / throughput.seconds,
        "data_wait_share": throughput.data_seconds / throughput.seconds,
        "model_flops_per_second": throughput.flops_per_token * tokens / throughput.seconds,
        "skipped_steps": optimizer.skipped,
        "silent_steps": optimizer.silent,
        "checkpoint_seconds": loop.checkpoint_seconds,
    }


def _no_rows(model: Transformer, world: World) -> tuple[Tensor, Tensor]:
    """Inputs [0, T] and targets [0, T]."""
    nothing = torch.empty((0, model.config.sequence_len), dtype=torch.long, device=world.device)
    return nothing, nothing


def _throughput(model: Transformer, config: TrainConfig, world: World) -> Throughput:
    peak = peak_flops(world.device)
    flops = flops_per_token(model.config, model.vocab_size)
    return Throughput(config.batch_tokens, flops, peak and peak * world.size)


def _validation(
    model: Transformer, rows: Rows, token_bytes: np.ndarray, config: TrainConfig, world: World
) -> Validation:
    limit = max(1, config.eval_tokens // model.config.sequence_len)
    return Validation(
        config.eval_every, lambda: score_rows(model, rows, limit, config.micro_batch_rows, token_bytes, world)
    )
