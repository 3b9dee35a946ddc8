"""Rows for training from the token shards that `data.token_files` writes, read by memory mapping."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aquarat_core.data.packing import PlannedRows, id_dtype, plan_documents
from aquarat_core.data.token_files import INDEX
from aquarat_core.errors import DataError


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
