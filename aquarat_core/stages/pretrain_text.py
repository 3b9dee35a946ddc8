"""pretrain_text: documents for pretraining, as `train-00000.parquet` ..., `validation.parquet` and `shards.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from aquarat_core.config import PretrainTextConfig
from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.documents import texts_in, write_documents
from aquarat_core.data.hub import HubDataset
from aquarat_core.errors import DataError
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.own_text import Shard, write_own_text


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Write the shards; returns documents and UTF-8 bytes of training and validation."""
    notes: dict[str, Scalar] = {}
    match ctx.config.source:
        case "hub":
            shards = list(_from_hub(ctx))
        case "files":
            shards, notes = write_own_text(ctx)
        case _:
            shards = list(_generated(ctx))
    if n := ctx.config.added_documents:
        shards.insert(-1, _added(ctx, n, len(shards) - 1))
    (ctx.outdir / "shards.json").write_text(json.dumps([asdict(s) for s in shards], indent=2) + "\n")
    train, validation = shards[:-1], shards[-1]
    return {
        "train_shards": len(train),
        "train_documents": sum(s.documents for s in train),
        "train_bytes": sum(s.text_bytes for s in train),
        "validation_documents": validation.documents,
        "validation_bytes": validation.text_bytes,
        "blank_documents": sum(s.blank for s in shards),
        **notes,
    }


def _from_hub(ctx: StageContext) -> Iterator[Shard]:
    """The shards of the config in order, the pinned validation shard last; some are fetched ahead."""
    config: PretrainTextConfig = ctx.config
    hub = HubDataset.open(config.repo, ctx.log)
    numbers = (*config.shards, config.validation_shard)

    def fetch(i: int) -> Path:
        field = "validation_shard" if i == len(config.shards) else "train_shards"
        return hub.file(_shard_name(numbers[i]), f"name existing shards in pretrain_text.{field}")

    with ThreadPoolExecutor(config.parallel_downloads) as pool:
        try:
            for i, path in enumerate(pool.map(fetch, range(len(numbers)))):
                ctx.progress(i, len(numbers), unit="shards")
                name = _shard_name(numbers[i])
                file = "validation.parquet" if i == len(config.shards) else f"train-{i:05d}.parquet"
                texts = hub.texts(path, name, "text", config.max_documents_per_shard)
                bad = BadRows(f"{config.repo}/{name}", "pretrain_text", config.on_bad_row)
                yield _write(ctx.outdir / file, texts_in(texts.chunks), bad.source, bad)
                if said := bad.summary():
                    ctx.log(said)
        finally:
            pool.shutdown(cancel_futures=True)
    ctx.progress(len(numbers), len(numbers), unit="shards")


def _shard_name(number: int) -> str:
    return f"shard_{number:05d}.parquet"


def _generated(ctx: StageContext) -> Iterator[Shard]:
    """Generated documents; no training document is in validation."""
    from aquarat_core.tasks.word_problems import generate_text

    config: PretrainTextConfig = ctx.config
    # Short problems repeat, so fewer documents are left for validation than were generated for it.
    texts = generate_text(config.n_documents + 4 * config.n_validation_documents, config.seed, config.max_level)
    train = texts[: config.n_documents]
    known = set(train)
    held_out = [text for text in dict.fromkeys(texts[config.n_documents :]) if text not in known]
    ctx.progress(0, 2, unit="files")
    yield _write(ctx.outdir / "train-00000.parquet", train, "synthetic")
    ctx.progress(1, 2, unit="files")
    yield _write(ctx.outdir / "validation.parquet", held_out[: config.n_validation_documents], "synthetic")
    ctx.progress(2, 2, unit="files")


def _added(ctx: StageContext, n: int, number: int) -> Shard:
    """`n` generated documents as the training shard `number`."""
    from aquarat_core.tasks.word_problems import generate_text

    texts = generate_text(n, ctx.config.seed, ctx.config.max_level)
    shard = _write(ctx.outdir / f"train-{number:05d}.parquet", texts, "synthetic")
    ctx.log(f"{shard.file}: {shard.documents:,} generated documents, {shard.text_bytes:,} bytes of text")
    return shard


def _write(path: Path, texts: Iterable[str | bytes | None], source: str, bad: BadRows | None = None) -> Shard:
    """Write the texts that are not blank; bytes, which are not valid UTF-8, go to `bad`.

    Returns the shard's description. Raises `DataError` if nothing is left.
    """
    documents = text_bytes = blank = 0
    bad = bad or BadRows(source, "pretrain_text", "error")

    def kept() -> Iterator[str]:
        nonlocal documents, text_bytes, blank
        for number, text in enumerate(texts):
            if isinstance(text, bytes):
                bad.add(path.stem, number, "the text is not valid UTF-8")
                continue
            if text is None or not text.strip():
                blank += 1
                continue
            documents += 1
            text_bytes += len(text.encode())
            yield text

    write_documents(path, kept())
    if not documents:
        raise DataError(f"{source}: no document with text in it. Choose another shard, or generate more documents")
    return Shard(path.name, source, documents, text_bytes, blank)
