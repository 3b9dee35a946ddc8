"""Pretraining: a fresh model learns plain text."""

from __future__ import annotations

import pyarrow.parquet as pq
import torch

from aquarat_core.config import BaseConfig
from aquarat_core.data.packing import PackedText, pack_documents
from aquarat_core.model.accounting import parameters
from aquarat_core.model.transformer import Transformer
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer
from aquarat_core.training.batches import PackedRows
from aquarat_core.training.checkpoint import save_checkpoint
from aquarat_core.training.checkpointing import continued_run
from aquarat_core.training.distributed import distributed_world
from aquarat_core.training.loop import train
from aquarat_core.training.metrics import metric_log


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Train a model of `config.model` on the training shards of `pretrain_text`."""
    config: BaseConfig = ctx.config
    text, tokenizer_file = ctx.inputs["pretrain_text"], ctx.inputs["tokenizer"].path(TOKENIZER_FILE)
    tokenizer = Tokenizer.load(tokenizer_file)
    names = sorted(f.path for f in text.manifest.files)
    packed = _pack([text.path(n) for n in names if n.startswith("train-")], tokenizer, config)
    validation = _pack([text.path("validation.parquet")], tokenizer, config)
    continued = continued_run(ctx.work, config.checkpoint.resume)
    with distributed_world(config.launch) as world, metric_log(ctx, config.wandb, continued) as log:
        model = Transformer(config.model, tokenizer.vocab_size, world.compute_dtype)
        model.initialise(torch.Generator().manual_seed(config.seed))
        model.to(world.device)
        rows, held_out = PackedRows(packed.ids), PackedRows(validation.ids)
        summary = train(model, rows, held_out, tokenizer.token_bytes(), config, world, ctx, log)
        if ctx.rank == 0:
            save_checkpoint(ctx.outdir, model, tokenizer_file)
    return {
        **summary,
        "parameters": parameters(config.model, tokenizer.vocab_size),
        "rows": len(rows),
        "cropped_share": packed.cropped,
        "ranks": world.size,
        "compute_dtype": str(world.compute_dtype).removeprefix("torch."),
    }


def _pack(paths: list, tokenizer: Tokenizer, config: BaseConfig) -> PackedText:
    documents = (
        ids
        for path in paths
        for batch in pq.ParquetFile(path).iter_batches(1024, columns=["text"])
        for ids in tokenizer.encode_batch(batch.column(0).to_pylist())
    )
    return pack_documents(documents, config.model.sequence_len, tokenizer.special("<|bos|>"), tokenizer.vocab_size)
