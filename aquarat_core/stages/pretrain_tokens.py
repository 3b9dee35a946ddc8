"""pretrain_tokens: the documents of pretrain_text as token ids, `train-00000.bin` ..., `validation.bin`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from aquarat_core.data.documents import read_columns
from aquarat_core.data.parallel import mapped
from aquarat_core.data.tokens import TokenShard, write_index, write_shard
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Encode every shard of text once, for all runs that train on it; returns documents and tokens."""
    text, tokenizer = ctx.inputs["pretrain_text"], Tokenizer.load(ctx.inputs["tokenizer"].path(TOKENIZER_FILE))
    bos, size = tokenizer.special("<|bos|>"), tokenizer.vocab_size
    names = sorted(f.path for f in text.manifest.files if f.path.endswith(".parquet"))
    shards: dict[str, TokenShard] = {}
    for i, name in enumerate(names):
        ctx.progress(i, len(names), unit="shards")
        shards[name] = write_shard(ctx.outdir / f"{Path(name).stem}.bin", encoded(text.path(name), tokenizer), size)
    ctx.progress(len(names), len(names), unit="shards")
    validation = shards.pop("validation.parquet")
    write_index(ctx.outdir, list(shards.values()), validation, bos, size)
    return {
        "train_documents": sum(shard.documents for shard in shards.values()),
        "train_tokens": sum(shard.tokens for shard in shards.values()),
        "validation_tokens": validation.tokens,
    }


def encoded(path: Path, tokenizer: Tokenizer, threads: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The documents of a Parquet file in parts: ids with a BOS before each document, and the documents' offsets."""
    encode = partial(tokenizer.encode_batch_to_numpy, threads=1, prepend="<|bos|>")
    return mapped(encode, read_columns(path), threads)
