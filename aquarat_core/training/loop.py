"""The one training loop of base, mid and SFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from aquarat_core.checkpointing import Checkpointer
from aquarat_core.config import TrainConfig
from aquarat_core.data.rows import RowOrder, Rows
from aquarat_core.model.accounting import flops_per_token
from aquarat_core.model.bits_per_byte import score_rows
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.hardware import collector_paused, deterministic, peak_flops
from aquarat_core.tracking.context import RunContext
from aquarat_core.tracking.metrics import MetricLog
from aquarat_core.training.callbacks import Callback, Record, Step, Throughput, Validation
from aquarat_core.training.loss import accumulate_loss, loss_function
from aquarat_core.training.preflight import check_run, out_of_memory_explained
from aquarat_core.training.update import Updater


def train(
    model: Transformer,
    rows: Rows,
    validation: Rows,
    token_bytes: np.ndarray,
    config: TrainConfig,
    world: World,
    ctx: RunContext,
    log: MetricLog,
    beside: Sequence[Callback] = (),
) -> dict[str, float]:
    """Train `model` in place until `config.steps` steps are done, from where an earlier start was; the run's summary.

    Every rank sees its share of each step's rows. The loss is the mean over all target tokens of the step, whatever
    the micro-batches and ranks. The callbacks `beside` see a step after validation, before its metrics are written.
    """
    check_run(model, config, world)
    T = model.config.sequence_len
    rows_per_step = config.batch_tokens // T
    order = RowOrder(len(rows), config.seed)
    per_pass = min(config.micro_batch_rows, rows_per_step // world.size)
    repeatable = partial(deterministic, config.launch.deterministic, world.device)
    with repeatable(), out_of_memory_explained(config):
        loss_sum = loss_function(model, config.launch, world, per_pass, ctx.log)
    updater = Updater(model, config.optim, config.steps, world)
    peak = peak_flops(world.device)
    flops = flops_per_token(model.config, model.vocab_size)
    throughput = Throughput(config.batch_tokens, flops, peak and peak * world.size)
    limit = max(1, config.eval_tokens // T)
    held_out = Validation(
        config.eval_every,
        lambda: score_rows(model, validation, limit, config.micro_batch_rows, token_bytes, world),
    )
    callbacks = (throughput, held_out, *beside, Record(log, ctx))
    latest = _Latest()
    parts = {"model": model, "latest": latest, **{type(c).__name__.lower(): c for c in callbacks}}
    shards = {"updater": updater}
    wandb_id = (ctx.wandb or {}).get("run_id")
    with (
        collector_paused(),
        out_of_memory_explained(config),
        Checkpointer(ctx.work, config.checkpoint, world, parts, shards, ctx.log, wandb_id) as checkpointer,
    ):
        stop = checkpointer.stop
        for index in range(checkpointer.restore(), config.steps):
            throughput.begin()
            mine = np.array(world.share(list(order.rows(index, rows_per_step))))
            inputs, targets = rows.tensors(mine, world.device)
            waited = throughput.elapsed
            with checkpointer.step(index):
                with repeatable():
                    loss = accumulate_loss(loss_sum, inputs, targets, config.micro_batch_rows, world, stop)
                updated = updater.apply(index, stop)
            latest.loss = float(loss)
            metrics = {"train/loss": latest.loss, **updated, "time/data": waited}
            step = Step(index + 1, config.steps, metrics)
            for callback in callbacks:
                callback.after_step(step)
            checkpointer.after_step(index + 1)
    tokens = config.steps * config.batch_tokens
    return {
        "train_loss": latest.loss,
        **{name.replace("/", "_"): value for name, value in held_out.scores.items()},
        "steps": config.steps,
        "tokens": tokens,
        "epochs": config.steps * rows_per_step / len(rows),
        "tokens_per_second": tokens / throughput.seconds,
        "model_flops_per_second": flops * tokens / throughput.seconds,
        "skipped_steps": updater.skipped,
        "silent_steps": updater.silent,
        "checkpoint_seconds": checkpointer.blocked_seconds,
    }


class _Latest:
    """The loss of the latest step, for a run that resumes with nothing left to do."""

    loss = float("nan")

    def state_dict(self) -> dict[str, Any]:
        return {"loss": torch.tensor(self.loss, dtype=torch.float64)}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.loss = float(state_dict["loss"])
