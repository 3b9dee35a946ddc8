"""Which packed rows each step uses: a function of (seed, step) alone, independent of the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aquarat_core.data.tensors import from_numpy, to_device
from aquarat_core.errors import DataError
from aquarat_core.runtime.preemption import Stop

K = TypeVar("K")
V = TypeVar("V")

IGNORED = -1
"""Target at positions without loss."""
WINDOW = 8
"""The most chunks whose rows are shuffled together."""


class Rows(Protocol):
    """Rows of T + 1 tokens, in memory or in files."""

    def __len__(self) -> int: ...

    def tensors(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs [B, T] and targets [B, T] of these rows; positions without loss have target -1."""
        ...


class TrainingRows(Rows, Protocol):
    """Rows in chunks, of which only some need to be here at a time."""

    @property
    def chunk_rows(self) -> Sequence[int]:
        """The number of rows of each chunk; chunks follow one another."""
        ...

    def hold(self, chunks: Sequence[int], ahead: Sequence[int], stop: Stop) -> None:
        """Returns when the rows of `chunks` are here, or once `stop` returns true; meanwhile, and afterwards, those of
        `ahead` are brought here. Others may leave. Raises the error of what could not be read."""
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

    @property
    def chunk_rows(self) -> Sequence[int]:
        """All rows are one chunk."""
        return (len(self),)

    def hold(self, chunks: Sequence[int], ahead: Sequence[int], stop: Stop) -> None:
        """They are all here."""

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


@dataclass(frozen=True, slots=True)
class _Windows:
    """An epoch's windows: the chunks of each, and the position in the epoch at which its rows begin."""

    chunks: list[list[int]]
    edges: npt.NDArray[np.int64]


class EpochShuffle:
    """Every row once per epoch, in an order drawn from (seed, epoch).

    Rows may be in chunks that are not all here at once. The chunks of an epoch are then shuffled and divided evenly
    into windows of at most `window` chunks (`WINDOW` by default), and rows are shuffled within each window.
    """

    def __init__(self, n_rows: int | Sequence[int], seed: int, window: int | None = None) -> None:
        """`n_rows` is the number of rows or, of rows in chunks, that of each chunk. Raises `DataError` for no row."""
        counts = np.atleast_1d(np.asarray(n_rows, np.int64))
        self.n_rows, self.seed = int(counts.sum()), seed
        if self.n_rows < 1:
            raise DataError("there is no row to train on: the packed data is empty")
        self._counts, self._first = counts, np.cumsum(counts) - counts
        self._with_rows = np.flatnonzero(counts)
        self._n_windows = -(-len(self._with_rows) // (window or WINDOW))
        self._epochs: dict[int, _Windows] = {}
        self._orders: dict[tuple[int, int], npt.NDArray[np.int64]] = {}

    def rows(self, step: int, per_step: int) -> np.ndarray:
        """Indices [per_step] of the rows in this step, over all ranks."""
        found: list[npt.NDArray[np.int64]] = []
        at, end = step * per_step, (step + 1) * per_step
        while at < end:
            epoch, window, position = self._place(at)
            found.append(self._order(epoch, window)[position : position + end - at])
            at += len(found[-1])
        return np.concatenate(found)

    def chunks(self, step: int, per_step: int, steps: int) -> tuple[list[int], list[int]]:
        """The chunks with the rows of this step, and those of the window after them.

        There are none of the latter if `steps` end before that window, or in a step with rows of more than one window,
        so that the chunks of two windows are in use.
        """
        at, end, last = step * per_step, (step + 1) * per_step, steps * per_step
        windows: list[list[int]] = []
        while at < end:
            windows.append(self._window_at(at))
            at = self._end_of_window(at)
        ahead = self._window_at(at) if len(windows) == 1 and at < last else []
        return [chunk for window in windows for chunk in window], ahead

    def _window_at(self, i: int) -> list[int]:
        """The chunks of the window of the i-th row that is used."""
        epoch, window, _ = self._place(i)
        return self._windows(epoch).chunks[window]

    def _end_of_window(self, i: int) -> int:
        epoch, window, _ = self._place(i)
        return epoch * self.n_rows + int(self._windows(epoch).edges[window + 1])

    def _place(self, i: int) -> tuple[int, int, int]:
        """Epoch, window in it, and position in that of the i-th row that is used."""
        epoch, position = divmod(i, self.n_rows)
        edges = self._windows(epoch).edges
        window = int(np.searchsorted(edges, position, side="right")) - 1
        return epoch, window, position - int(edges[window])

    def _windows(self, epoch: int) -> _Windows:
        if epoch not in self._epochs:
            chunks = self._with_rows
            if self._n_windows > 1:
                # The numbers of a window's generator are three, so this one is none of them.
                chunks = np.random.default_rng((self.seed, epoch, 0, 1)).permutation(chunks)
            windows = [np.sort(part) for part in np.array_split(chunks, self._n_windows)]
            edges = np.cumsum([0, *(self._counts[part].sum() for part in windows)])
            _keep_last(self._epochs, epoch, _Windows([part.tolist() for part in windows], edges))
        return self._epochs[epoch]

    def _order(self, epoch: int, window: int) -> npt.NDArray[np.int64]:
        """The rows of a window as they are used. A generator's numbers are as if zeros followed, so the first window of
        an epoch draws what (seed, epoch) draws."""
        if (epoch, window) not in self._orders:
            chunks = self._windows(epoch).chunks[window]
            rows = np.concatenate([self._first[c] + np.arange(self._counts[c], dtype=np.int64) for c in chunks])
            drawn = np.random.default_rng((self.seed, epoch, window)).permutation(rows)
            _keep_last(self._orders, (epoch, window), drawn)
        return self._orders[epoch, window]


def _keep_last(kept: dict[K, V], key: K, value: V) -> None:
    """Adds to `kept`, which holds the two that were added last."""
    if len(kept) > 1:
        del kept[next(iter(kept))]
    kept[key] = value
