"""One shard of pretrain_tokens: a file of documents as token ids, and their lengths."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from aquarat_core.data.documents import read_columns
from aquarat_core.data.parallel import mapped
from aquarat_core.data.token_files import lengths_file, write_shard
from aquarat_core.sharding.spec import Counts, Work
from aquarat_core.text.tokenizer import Tokenizer

IDS = "tokens.bin"
LENGTHS = lengths_file(IDS)


def encode(work: Work) -> Counts:
    """Encode the documents `text` with the tokenizer `tokenizer`."""
    tokenizer = _loaded(work.path("tokenizer"))
    parts = encoded(work.path("text"), tokenizer, work.threads)
    shard = write_shard(work.folder / IDS, parts, tokenizer.vocab_size)
    return {"documents": shard.documents, "tokens": shard.tokens}


@lru_cache(maxsize=1)
def _loaded(path: Path) -> Tokenizer:
    """The tokenizer at a path of the cache, whose name has the hash of its artifact; loaded once for many shards."""
    return Tokenizer.load(path)


def encoded(path: Path, tokenizer: Tokenizer, threads: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The documents of a Parquet file in parts: ids with a BOS before each document, and the documents' offsets."""
    encode = partial(tokenizer.encode_batch_to_numpy, threads=1, prepend="<|bos|>")
    return mapped(encode, read_columns(path), threads)
