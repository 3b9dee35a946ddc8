"""Trains the byte-level BPE on the pretraining text, the conversations and the questions, and measures it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import rustbpe_py

from aquarat_core.config import TokenizerConfig
from aquarat_core.conversation import message_texts
from aquarat_core.data.conversations import read_conversations
from aquarat_core.data.documents import read_documents
from aquarat_core.data.mixed_documents import DocumentFile, holds_documents
from aquarat_core.sharding.spec import ShardSpec, Source
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.count_shard import FILE
from aquarat_core.stages.sharded import made_shards, shard_spec
from aquarat_core.stages.task_inputs import task_input
from aquarat_core.tasks.registry import DATASETS, dataset_of
from aquarat_core.text.compression import report
from aquarat_core.text.counting import Budget, quotas
from aquarat_core.text.tokenizer import TOKENIZER_FILE, counted_texts, learned, piece_counter

COUNT = "aquarat_core.stages.count_shard:count"
REPORT_FILE = "report.json"
"""One of the records, because the vocabularies that it is compared with depend on what is installed."""
TEXTS_PER_SOURCE = 2_000
"""Compression is measured on this many texts from the beginning of each source."""


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Count up to `max_chars` characters, learn the merges, and measure the compression of every source.

    Problems, conversations and their documents are counted first, because they are small; what they leave of the budget
    is shared equally by the shards of pretraining text, each of which is counted by itself.

    `bytes_per_token` is measured on validation text, which the tokenizer has not seen; the values for questions and for
    the sources of conversations and documents are from texts that it was trained on.
    """
    config: TokenizerConfig = ctx.config
    counter, budget = piece_counter(config), Budget(config.max_chars, config.max_chars_per_document)
    counter.add(counted_texts(_small_sources(ctx), budget, ctx.progress))
    for made in made_shards(ctx, _shards(ctx, budget.left or 0)):
        counter.absorb(rustbpe_py.PieceCounter.from_bytes(made.read(FILE)))
    tokenizer = learned(counter, config, ctx.progress)
    tokenizer.save(ctx.outdir / TOKENIZER_FILE)
    questions = _first(_questions(ctx))
    sources = {"questions": questions} if questions else {}
    sources |= {name: _first(texts) for name, texts in _chats(ctx)}
    sources |= {name: _first(row.text for row in file.documents()) for name, file in _documents(ctx)}
    sources["validation"] = _first(read_documents(ctx.inputs["pretrain_text"].path("validation.parquet")))
    made = report(tokenizer, sources)
    (ctx.extras_dir / REPORT_FILE).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return _metrics(made)


def _metrics(made: dict[str, Any]) -> dict[str, Scalar]:
    by_source = made["compression"]
    metrics: dict[str, Scalar] = {
        "vocab_size": made["vocab_size"]["own"],
        "mean_token_bytes": made["mean_token_bytes"],
        "longest_token_bytes": max(made["token_lengths"], default=1),
    }
    for source, measured in by_source.items():
        for name, result in measured.items():
            prefix = "" if name == "own" else f"{name}_"
            suffix = "" if source == "validation" else f"_{source}"
            metrics[f"{prefix}bytes_per_token{suffix}"] = result["bytes_per_token"]
    return metrics


def _small_sources(ctx: StageContext) -> Iterator[str | pa.Array[Any]]:
    """Everything to train on except the pretraining text."""
    yield from _questions(ctx)
    for _, texts in _chats(ctx):
        yield from texts
    for _, file in _documents(ctx):
        yield from (part.texts for part in file.parts())


def _shards(ctx: StageContext, budget: int) -> list[ShardSpec]:
    """The shards of pretraining text, with the characters to count of each; none if there is no budget left."""
    text = ctx.inputs["pretrain_text"]
    files = sorted((f for f in text.manifest.files if f.path.startswith("train-")), key=lambda f: f.path)
    described = {f.path for f in text.manifest.files} & {"shards.json"}
    listed: list[dict[str, Any]] = json.loads(text.path("shards.json").read_text()) if described else []
    # A text has at most as many characters as bytes.
    sizes = {shard["file"]: int(shard["text_bytes"]) for shard in listed}
    shares = quotas([sizes.get(f.path, budget) for f in files], budget)
    return [
        shard_spec(
            file.path,
            COUNT,
            file.size,
            settings={
                "pattern": ctx.config.pattern,
                "max_chars": share,
                "max_chars_per_document": ctx.config.max_chars_per_document,
            },
            inputs={"text": Source(text, file)},
        )
        for file, share in zip(files, shares, strict=True)
        if share != 0
    ]


def _questions(ctx: StageContext) -> Iterator[str]:
    """Questions of the tasks that have their own data set; those of other tasks are in the conversations."""
    for name in ctx.config.tasks:
        if dataset_of(name) in DATASETS:
            for example in task_input(ctx, name).examples("train"):
                yield "\n".join(text for message in example.conversation() for text in message_texts(message))


def _chats(ctx: StageContext) -> Iterator[tuple[str, Iterator[str]]]:
    """Every source of conversations with the texts of its messages, without the special tokens around calls."""
    for name, path in _sources(ctx, documents=False):
        conversations = read_conversations(path)
        yield name, (text for c in conversations for m in c.messages for text in message_texts(m))


def _documents(ctx: StageContext) -> Iterator[tuple[str, DocumentFile]]:
    """Every source of documents."""
    return ((name, DocumentFile(path)) for name, path in _sources(ctx, documents=True))


def _sources(ctx: StageContext, *, documents: bool) -> Iterator[tuple[str, Path]]:
    """Name and training file of the sources that have documents, or of those that do not."""
    chats, ending = ctx.inputs["chat_datasets"], ".train.parquet"
    for file in sorted(f.path for f in chats.manifest.files if f.path.endswith(ending)):
        if holds_documents(path := chats.path(file)) == documents:
            yield file.removesuffix(ending), path


def _first(texts: Iterator[str]) -> list[str]:
    return list(islice(texts, TEXTS_PER_SOURCE))
