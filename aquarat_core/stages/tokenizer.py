"""Train the byte-level BPE on the pretraining text, the conversations and the questions."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from aquarat_core.config import TokenizerConfig
from aquarat_core.data.mixture import read_conversations
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.tasks.aqua import prompt, read_questions, target
from aquarat_core.text.tokenizer import TOKENIZER_FILE, train_tokenizer


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Count up to `max_chars` characters, learn the merges, and measure the compression of the validation text."""
    config: TokenizerConfig = ctx.config
    tokenizer = train_tokenizer(_texts(ctx), config)
    tokenizer.save(ctx.outdir / TOKENIZER_FILE)
    held_out = pq.read_table(ctx.inputs["pretrain_text"].path("validation.parquet"))["text"].to_pylist()
    held_out = held_out[:2000]
    n_tokens = sum(len(ids) for ids in tokenizer.encode_batch(held_out))
    return {
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": sum(len(t.encode()) for t in held_out) / n_tokens,
    }


def _texts(ctx: StageContext) -> Iterator[str]:
    """Problems and conversations first: they are small, and the character budget may end the text early."""
    for q in read_questions(ctx.inputs["aqua_dataset"].path("train.parquet")):
        yield f"{prompt(q)}\n{target(q)}"
    chats = ctx.inputs["chat_datasets"]
    for name in sorted(f.path for f in chats.manifest.files if f.path.endswith(".train.parquet")):
        for conversation in read_conversations(chats.path(name)):
            yield from (m["content"] for m in conversation.messages)
    text = ctx.inputs["pretrain_text"]
    for name in sorted(f.path for f in text.manifest.files if f.path.startswith("train-")):
        for batch in pq.ParquetFile(text.path(name)).iter_batches(1024, columns=["text"]):
            yield from batch.column(0).to_pylist()
