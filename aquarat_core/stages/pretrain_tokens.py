"""pretrain_tokens: the documents of pretrain_text as token ids, `train-00000.bin` ..., `validation.bin`.

Beside each is a file with the lengths of its documents, such as `train-00000.lengths`.
"""

from __future__ import annotations

from pathlib import Path

from aquarat_core.data.token_files import TokenShard, lengths_file, write_index
from aquarat_core.sharding.spec import Source
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.sharded import made_shards, shard_spec
from aquarat_core.stages.token_shard import IDS, LENGTHS
from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer

ENCODE = "aquarat_core.stages.token_shard:encode"


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Encode every shard of text once, for all runs that train on it; returns documents and tokens."""
    text, tokenizer = ctx.inputs["pretrain_text"], Tokenizer.load(ctx.inputs["tokenizer"].path(TOKENIZER_FILE))
    files = sorted((f for f in text.manifest.files if f.path.endswith(".parquet")), key=lambda f: f.path)
    (vocabulary,) = (
        Source(ctx.inputs["tokenizer"], f, shared=True)
        for f in ctx.inputs["tokenizer"].manifest.files
        if f.path == TOKENIZER_FILE
    )
    specs = [
        shard_spec(file.path, ENCODE, file.size, inputs={"text": Source(text, file), "tokenizer": vocabulary})
        for file in files
    ]
    shards: dict[str, TokenShard] = {}
    for file, made in zip(files, made_shards(ctx, specs), strict=True):
        path = f"{Path(file.path).stem}.bin"
        beside = lengths_file(path)
        made.publish(IDS, path)
        made.publish(LENGTHS, beside)
        shards[path] = TokenShard(path, beside, made.number("documents"), made.number("tokens"))
    validation = shards.pop("validation.bin")
    write_index(ctx.outdir, list(shards.values()), validation, tokenizer.special("<|bos|>"), tokenizer.vocab_size)
    return {
        "train_documents": sum(shard.documents for shard in shards.values()),
        "train_tokens": sum(shard.tokens for shard in shards.values()),
        "validation_tokens": validation.tokens,
    }
