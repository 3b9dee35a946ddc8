"""Token ids on disk: for each shard of text a flat little-endian file of ids, and one of the documents' lengths.

`tokens.json` describes the files; every document is a BOS and its ids. An id takes two bytes if the vocabulary allows
it, so a billion tokens are two gigabytes, which all ranks of a host share in the page cache. A length takes four, so
rows can be planned from about a hundredth of the data. Imports no torch, because processes that only write shards start
without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aquarat_core.data.packing import id_dtype
from aquarat_core.errors import DataError

INDEX = "tokens.json"
_LENGTH = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class TokenShard:
    """One file of ids and one of lengths."""

    file: str
    lengths: str
    """The file with the number of ids of each document, its BOS among them."""
    documents: int
    tokens: int
    """Number of ids in the file, including a BOS for each document."""


@dataclass(frozen=True, slots=True)
class TokenIndex:
    """The content of `tokens.json`."""

    vocab_size: int
    bos: int
    train: tuple[TokenShard, ...]
    validation: TokenShard


def lengths_file(file: str) -> str:
    """The name of the file of lengths beside a file of ids."""
    return f"{file.removesuffix('.bin')}.lengths"


def write_shard(path: Path, parts: Iterable[tuple[np.ndarray, np.ndarray]], vocab_size: int) -> TokenShard:
    """Write `parts` one after another: ids in which every document begins with a BOS, and the documents' offsets.

    This is the format that `Tokenizer.encode_batch_to_numpy` returns.
    """
    dtype = id_dtype_on_disk(vocab_size)
    n_documents = n_tokens = 0
    beside = path.with_name(lengths_file(path.name))
    with path.open("wb") as f, beside.open("wb") as g:
        for ids, offsets in parts:
            ids.astype(dtype, copy=False).tofile(f)
            np.diff(offsets).astype(_LENGTH).tofile(g)
            n_documents += len(offsets) - 1
            n_tokens += len(ids)
    return TokenShard(path.name, beside.name, n_documents, n_tokens)


def id_dtype_on_disk(vocab_size: int) -> np.dtype[np.integer]:
    """The type of the ids in a file."""
    return np.dtype(id_dtype(vocab_size)).newbyteorder("<")


def read_lengths(path: Path) -> npt.NDArray[np.uint32]:
    """The number of ids of each document of a shard."""
    return np.fromfile(path, _LENGTH)


def write_index(folder: Path, train: Sequence[TokenShard], validation: TokenShard, bos: int, vocab_size: int) -> None:
    index = TokenIndex(vocab_size, bos, tuple(train), validation)
    (folder / INDEX).write_text(json.dumps(asdict(index), indent=1) + "\n")


def read_index(path: Path, vocab_size: int) -> TokenIndex:
    """Reads `tokens.json`.

    Raises `DataError` if the ids are from another vocabulary, or were written before their lengths were written too.
    """
    found = json.loads(path.read_text())
    if found["vocab_size"] != vocab_size:
        raise DataError(
            f"the tokens have a vocabulary of {found['vocab_size']:,} ids, but the tokenizer has {vocab_size:,}: "
            "materialize pretrain_tokens again"
        )
    if any("lengths" not in shard for shard in (*found["train"], found["validation"])):
        raise DataError(
            "the tokens were written by an older version, without the lengths of documents that rows are now planned "
            "from: materialize pretrain_tokens again"
        )
    train = tuple(TokenShard(**shard) for shard in found["train"])
    return TokenIndex(vocab_size, found["bos"], train, TokenShard(**found["validation"]))
