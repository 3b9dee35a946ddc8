"""Token ids on disk: one flat little-endian file per shard of text.

`tokens.json` describes the files; every document is a BOS and its ids. An id takes two bytes if the vocabulary allows
it, so a billion tokens are two gigabytes, which all ranks of a host share in the page cache. Imports no torch, because
processes that only write shards start without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from aquarat_core.data.packing import id_dtype

INDEX = "tokens.json"


@dataclass(frozen=True, slots=True)
class TokenShard:
    """One file of ids."""

    file: str
    documents: int
    tokens: int
    """Number of ids in the file, including a BOS for each document."""


def write_shard(path: Path, parts: Iterable[tuple[np.ndarray, np.ndarray]], vocab_size: int) -> TokenShard:
    """Write `parts` one after another: ids in which every document begins with a BOS, and the documents' offsets.

    This is the format that `Tokenizer.encode_batch_to_numpy` returns.
    """
    dtype = np.dtype(id_dtype(vocab_size)).newbyteorder("<")
    n_documents = n_tokens = 0
    with path.open("wb") as f:
        for ids, offsets in parts:
            ids.astype(dtype, copy=False).tofile(f)
            n_documents += len(offsets) - 1
            n_tokens += len(ids)
    return TokenShard(path.name, n_documents, n_tokens)


def write_index(folder: Path, train: Sequence[TokenShard], validation: TokenShard, bos: int, vocab_size: int) -> None:
    described = {
        "vocab_size": vocab_size,
        "bos": bos,
        "train": [asdict(shard) for shard in train],
        "validation": asdict(validation),
    }
    (folder / INDEX).write_text(json.dumps(described, indent=1) + "\n")
