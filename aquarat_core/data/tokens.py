"""Token ids on disk: one flat little-endian file per shard of text, read by memory mapping.

`tokens.json` describes the files; every document is a BOS and its ids. An id takes two bytes if the vocabulary allows
it, so a billion tokens are two gigabytes, which all ranks of a host share in the page cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aquarat_core.data.packing import PlannedRows, id_dtype, plan_documents
from aquarat_core.errors import DataError

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


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; a copy to a GPU goes through pinned memory and does not block the host."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def from_numpy(array: np.ndarray) -> Tensor:
    """`torch.from_numpy`, with a typed parameter."""
    return torch.from_numpy(array)  # pyright: ignore[reportUnknownMemberType]


class TokenRows(PlannedRows):
    """Rows of T + 1 ids from memory-mapped shards, as inputs and targets."""

    def tensors(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs [B, T] and targets [B, T] of these rows."""
        ids = to_device(from_numpy(self.ids(rows)), device)
        return ids[:, :-1], ids[:, 1:]


def open_rows(folder: Path, split: str, T: int, vocab_size: int) -> TokenRows:
    """The rows of `split` (`train` or `validation`) in a folder of token shards.

    Raises `DataError` if its ids are from another vocabulary or do not fill one row.
    """
    index = json.loads((folder / INDEX).read_text())
    if index["vocab_size"] != vocab_size:
        raise DataError(
            f"the tokens have a vocabulary of {index['vocab_size']:,} ids, but the tokenizer has {vocab_size:,}: "
            "materialize pretrain_tokens again"
        )
    files = index["train"] if split == "train" else [index["validation"]]
    dtype = np.dtype(id_dtype(vocab_size)).newbyteorder("<")
    shards = [np.memmap(folder / shard["file"], dtype, mode="r") for shard in files]
    return TokenRows(shards, plan_documents(shards, T, index["bos"]), index["bos"])
