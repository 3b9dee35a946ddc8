"""Which packed rows each step uses: a function of (seed, step) alone, independent of the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from aquarat_core.data.tokens import from_numpy, to_device
from aquarat_core.errors import DataError

IGNORED = -1
"""Target at positions without loss."""


class Rows(Protocol):
    """Rows of T + 1 tokens, in memory or in files."""

    def __len__(self) -> int: ...

    def tensors(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs [B, T] and targets [B, T] of these rows; positions without loss have target -1."""
        ...


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of T + 1 tokens; `mask` says which of them are targets (None: all)."""

    ids: np.ndarray
    """[N, T + 1] token ids."""
    mask: np.ndarray | None = None
    """[N, T + 1] bool."""

    def __len__(self) -> int:
        return len(self.ids)

    def tensors(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs [B, T] and targets [B, T] of these rows; positions without loss have target -1."""
        ids = from_numpy(self.ids[rows].astype(np.int64))
        targets = ids[:, 1:].clone()
        if self.mask is not None:
            targets[~from_numpy(self.mask[rows][:, 1:])] = IGNORED
        return to_device(ids, device)[:, :-1], to_device(targets, device)


def pad(rows: Sequence[Sequence[float]], dtype: torch.dtype = torch.long) -> Tensor:
    """[B, T]: `rows` of unequal lengths, at least one row, padded with zeros to the longest."""
    padded = torch.zeros((len(rows), max(map(len, rows))), dtype=dtype)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = torch.as_tensor(values, dtype=dtype)
    return padded


class EpochShuffle:
    """Every row once per epoch, in an order drawn from (seed, epoch)."""

    def __init__(self, n_rows: int, seed: int) -> None:
        if n_rows < 1:
            raise DataError("there is no row to train on: the packed data is empty")
        self.n_rows, self.seed = n_rows, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def rows(self, step: int, per_step: int) -> np.ndarray:
        """Indices [per_step] of the rows in this step, over all ranks."""
        return np.array([self._row(i) for i in range(step * per_step, (step + 1) * per_step)])

    def _row(self, i: int) -> int:
        epoch, position = divmod(i, self.n_rows)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.n_rows)
        return int(self._order[position])
