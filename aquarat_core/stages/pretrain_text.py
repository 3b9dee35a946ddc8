"""pretrain_text: documents for pretraining, as `train-00000.parquet` ..., `validation.parquet` and `shards.json`.

Where duplicates or held-out questions are left out, `left_out.json` says how many of which shard, and shows some.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from aquarat_core.config import PretrainTextConfig
from aquarat_core.data.bad_rows import BadRows
from aquarat_core.data.hub import HubDataset
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.own_text import Shard, write_own_text
from aquarat_core.stages.sharded import made_shards, shard_spec
from aquarat_core.stages.stage import TEXT_PASSES, load
from aquarat_core.stages.text_shard import FILE, write_texts

CLEAN = "aquarat_core.stages.text_shard:clean"


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
    if ctx.config.leaves_out:
        # Looked up, so that without the passes this stage does not depend on their sources.
        shards, left_out = load(TEXT_PASSES)(ctx, shards)
        notes |= left_out
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
    """The shards of the config in order, the pinned validation shard last. Each is fetched and cleaned by itself."""
    config: PretrainTextConfig = ctx.config
    hub = HubDataset.open(config.repo, ctx.log)
    names = [f"shard_{number:05d}.parquet" for number in (*config.shards, config.validation_shard)]
    hints = [f"name existing shards in pretrain_text.{field}" for field in _fields(len(names))]
    digests = hub.digests(dict(zip(names, hints, strict=True)))
    specs = [
        shard_spec(
            name,
            CLEAN,
            digests[name].size,
            settings={
                "digest": digests[name].digest,
                "limit": config.max_documents_per_shard,
                "on_bad_row": config.on_bad_row,
                # Each version writes Parquet files of its own.
                "pyarrow": version("pyarrow"),
            },
            aside={
                "repo": hub.repo,
                "revision": hub.revision,
                "cached_only": hub.cached_only,
                "file": name,
                "hint": hint,
            },
        )
        for name, hint in zip(names, hints, strict=True)
    ]
    for i, (name, made) in enumerate(zip(names, made_shards(ctx, specs, config.parallel_downloads), strict=True)):
        file = "validation.parquet" if i == len(config.shards) else f"train-{i:05d}.parquet"
        made.publish(FILE, file)
        if said := made.counts["said"]:
            ctx.log(str(said))
        documents, text_bytes, blank = map(made.number, ("documents", "text_bytes", "blank"))
        yield Shard(file, f"{config.repo}/{name}", documents, text_bytes, blank)


def _fields(shards: int) -> Iterator[str]:
    """The field of the config that names each shard."""
    yield from ("train_shards" for _ in range(shards - 1))
    yield "validation_shard"


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
    yield _write(ctx.outdir / "train-00000.parquet", train)
    ctx.progress(1, 2, unit="files")
    yield _write(ctx.outdir / "validation.parquet", held_out[: config.n_validation_documents])
    ctx.progress(2, 2, unit="files")


def _added(ctx: StageContext, n: int, number: int) -> Shard:
    """`n` generated documents as the training shard `number`."""
    from aquarat_core.tasks.word_problems import generate_text

    texts = generate_text(n, ctx.config.seed, ctx.config.max_level)
    shard = _write(ctx.outdir / f"train-{number:05d}.parquet", texts)
    ctx.log(f"{shard.file}: {shard.documents:,} generated documents, {shard.text_bytes:,} bytes of text")
    return shard


def _write(path: Path, texts: Iterable[str]) -> Shard:
    """Write generated documents; returns the shard's description."""
    written = write_texts(path, texts, BadRows("synthetic", "pretrain_text", "error"))
    return Shard(path.name, "synthetic", written.documents, written.text_bytes, written.blank)
