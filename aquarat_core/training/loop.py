"""The one training loop of base, mid and SFT."""

from __future__ import annotations

import time

import numpy as np
import torch

from aquarat_core.config import TrainConfig
from aquarat_core.model.accounting import flops_per_token
from aquarat_core.model.transformer import Transformer
from aquarat_core.stages.base import StageContext
from aquarat_core.training.batches import PackedRows, RowOrder
from aquarat_core.training.distributed import World
from aquarat_core.training.metrics import MetricLog
from aquarat_core.training.scoring import score_rows
from aquarat_core.training.update import Updater


def train(
    model: Transformer,
    rows: PackedRows,
    validation: PackedRows,
    token_bytes: np.ndarray,
    config: TrainConfig,
    world: World,
    ctx: StageContext,
    log: MetricLog,
) -> dict[str, float]:
    """Train `model` in place for `config.steps` steps; returns the run's summary.

    Every rank sees its share of each step's rows. The loss is the mean over all target tokens of the step, whatever
    the micro-batches and ranks.
    """
    T = model.config.sequence_len
    rows_per_step = config.batch_tokens // T
    order = RowOrder(len(rows), config.seed)
    updater = Updater(model, config.optim, config.steps, world)
    started, scores, loss = time.monotonic(), {}, float("nan")
    for step in range(config.steps):
        t0 = time.monotonic()
        mine = world.share(list(order.rows(step, rows_per_step)))
        loss = accumulate_loss(model, rows, np.array(mine), config.micro_batch_rows, world)
        metrics = {"train/loss": loss, **updater.apply(step)}
        seconds = time.monotonic() - t0
        metrics["train/tokens_per_second"] = config.batch_tokens / seconds
        last = step + 1 == config.steps
        if last or (step + 1) % config.eval_every == 0:
            limit = max(1, config.eval_tokens // T)
            scores = score_rows(model, validation, limit, config.micro_batch_rows, token_bytes, world)
            metrics |= scores
        log.row(step + 1, **metrics)
        ctx.progress(step + 1, config.steps, **{k: metrics[k] for k in ("train/loss", "val/bpb") if k in metrics})
    seconds = time.monotonic() - started
    tokens = config.steps * config.batch_tokens
    return {
        "train_loss": loss,
        **{name.replace("/", "_"): value for name, value in scores.items()},
        "steps": config.steps,
        "tokens": tokens,
        "epochs": config.steps * rows_per_step / len(rows),
        "tokens_per_second": tokens / seconds,
        "model_flops_per_second": flops_per_token(model.config, model.vocab_size) * tokens / seconds,
        "skipped_steps": updater.skipped,
    }


def accumulate_loss(
    model: Transformer, rows: PackedRows, mine: np.ndarray, micro_batch_rows: int, world: World
) -> float:
    """Backward pass over this rank's rows in micro-batches; returns the mean loss over all ranks in nats."""
    inputs, targets = rows.tensors(mine, world.device)
    n_targets = world.sum((targets >= 0).sum()).clamp(min=1)
    total = torch.zeros((), device=world.device)
    for start in range(0, len(mine), micro_batch_rows):
        part = slice(start, start + micro_batch_rows)
        loss = model.token_losses(inputs[part], targets[part]).sum() / n_targets
        loss.backward()
        total += loss.detach()
    return float(world.sum(total))
