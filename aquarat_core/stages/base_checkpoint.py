"""Pretraining: trains a new model on plain text."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from aquarat_core.config import PretrainConfig
from aquarat_core.config.accounting import parameters
from aquarat_core.config.scaling import horizon_of
from aquarat_core.data.token_files import INDEX, read_index
from aquarat_core.data.tokens import ValidationRows, plan, training_rows
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer
from aquarat_core.training.loop import train
from aquarat_core.training.samples import Samples, text_prompts
from aquarat_core.training.session import training_session


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Train a model of `config.model` on the training shards of `pretrain_tokens`."""
    tokenizer_file = ctx.inputs["tokenizer"].path(TOKENIZER_FILE)
    tokenizer = Tokenizer.load(tokenizer_file)
    config = with_horizon(ctx.config, tokenizer.vocab_size)
    tokens, T = ctx.inputs["pretrain_tokens"], config.model.sequence_len
    index = read_index(tokens.path(INDEX), tokenizer.vocab_size)
    with ExitStack() as stack:
        session = stack.enter_context(training_session(ctx, config))
        world, folder = session.world, stack.enter_context(scratch_folder("planned"))
        made = world.once_per_host(lambda: plan(tokens, index, T, folder))
        rows, held_out = stack.enter_context(training_rows(tokens, index, made)), ValidationRows(tokens, index, made)
        model = Transformer(config.model, tokenizer.vocab_size, world.compute_dtype)
        model.init_weights(torch.Generator().manual_seed(config.seed))
        model.to(world.device)
        prompts = text_prompts(config.samples.prompts, tokenizer)
        samples = Samples(config.samples, model, tokenizer, prompts, session.log, ctx)
        summary = train(session, model, rows, held_out, tokenizer.token_bytes(), (samples,))
        if ctx.rank == 0:
            save_checkpoint(ctx.outdir, model, tokenizer_file)
    return {
        **summary,
        "parameters": parameters(config.model, tokenizer.vocab_size),
        "rows": len(rows),
        "cropped_share": rows.cropped_share,
        "ranks": world.size,
        "compute_dtype": str(world.compute_dtype).removeprefix("torch."),
    }


def with_horizon(config: PretrainConfig, vocab_size: int) -> PretrainConfig:
    """`config` with the number of steps that its budget allows for a model with this vocabulary."""
    return config.model_copy(update={"steps": horizon_of(config, vocab_size)})
