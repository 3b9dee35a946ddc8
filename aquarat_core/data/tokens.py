"""Rows for training from the token shards that `data.token_files` writes.

    made = plan(artifact, index, T, folder)               # once per host: needs the lengths of documents only
    with training_rows(artifact, index, made) as rows:    # on each rank
        rows.hold(chunks, ahead, stop)                    # fetches `chunks`, and begins to fetch `ahead`
        inputs, targets = rows.tensors(numbers, device)

Shards are in the host's cache while they are held, and mapped into memory. Afterwards the cache may remove them, so a
host never needs room for all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aquarat_core.artifacts import Artifact
from aquarat_core.data.ahead import FilesAhead
from aquarat_core.data.packing import Plan, PlannedRows
from aquarat_core.data.tensors import from_numpy, to_device
from aquarat_core.data.token_files import TokenIndex, TokenShard, id_dtype_on_disk
from aquarat_core.data.token_plans import Chunk, Planned, chunks_of, cropped_share, read_plans, write_plans
from aquarat_core.runtime.preemption import Stop

TRAIN, VALIDATION = "train", "validation"


def plan(artifact: Artifact, index: TokenIndex, T: int, folder: Path) -> dict[str, Any]:
    """Plans the rows of T + 1 ids of both splits in files in `folder`; returns what readers need to know, as JSON.

    Raises `DataError` if a split does not fill one row.
    """
    splits = {TRAIN: chunks_of(index.train), VALIDATION: [(index.validation,)]}
    planned = {split: write_plans(artifact, chunks, T, folder, split) for split, chunks in splits.items()}
    return {"folder": str(folder), "T": T, **planned}


class ValidationRows(PlannedRows):
    """Rows of T + 1 ids from one shard, which stays in the cache."""

    def __init__(self, artifact: Artifact, index: TokenIndex, made: Mapping[str, Any]) -> None:
        """`made` is what `plan` returned."""
        (found,) = read_plans(Path(made["folder"]), VALIDATION, _planned(made, VALIDATION))
        shard = index.validation
        super().__init__([_mapped(artifact.path(shard.file), shard, index)], found, index.bos)
        self._T = made["T"]

    def tensors(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs [B, T] and targets [B, T] of these rows."""
        ids = np.empty((len(rows), self._T + 1), np.int64)
        for row, out in zip(rows.tolist(), ids, strict=True):
            self.fill(row, out)
        return _inputs_and_targets(ids, device)


class ChunkedRows:
    """Rows of T + 1 ids from shards, of which only the held chunks are in use."""

    def __init__(self, files: FilesAhead, index: TokenIndex, chunks: Sequence[Chunk], made: Mapping[str, Any]) -> None:
        """`made` is what `plan` returned about these chunks."""
        planned = _planned(made, TRAIN)
        self._files, self._index, self._chunks, self._T = files, index, chunks, made["T"]
        self._plans: list[Plan] = read_plans(Path(made["folder"]), TRAIN, planned)
        self.chunk_rows = [p.rows for p in planned]
        self.cropped_share = cropped_share(planned, self._T)
        # numpy's stubs do not declare the return type of `tolist`.
        self._edges: list[int] = np.cumsum([0, *self.chunk_rows]).tolist()
        self._held: tuple[list[int], list[int]] | None = None
        self._open: dict[int, PlannedRows] = {}

    def __len__(self) -> int:
        return self._edges[-1]

    def hold(self, chunks: Sequence[int], ahead: Sequence[int], stop: Stop) -> None:
        """Returns when `chunks` are here, or once `stop` returns true, and brings `ahead` here; drops the others.

        Raises as `Artifact.path` does.
        """
        if self._held == (chunks, ahead):
            return
        self._held = None
        for chunk in self._open.keys() - {*chunks}:
            del self._open[chunk]
        self._files.want([shard.file for chunk in (*chunks, *ahead) for shard in self._chunks[chunk] if shard.tokens])
        for chunk in chunks:
            if chunk not in self._open:
                shards = [self._shard(shard, stop) for shard in self._chunks[chunk]]
                if stop():
                    return
                self._open[chunk] = PlannedRows(
                    [s for s in shards if s is not None], self._plans[chunk], self._index.bos
                )
        self._held = list(chunks), list(ahead)

    def tensors(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs [B, T] and targets [B, T] of these rows, whose chunks are held."""
        ids = np.empty((len(rows), self._T + 1), np.int64)
        for row, out in zip(rows.tolist(), ids, strict=True):
            chunk = bisect_right(self._edges, row) - 1
            self._open[chunk].fill(row - self._edges[chunk], out)
        return _inputs_and_targets(ids, device)

    def _shard(self, shard: TokenShard, stop: Stop) -> npt.NDArray[np.integer] | None:
        """The ids of a shard; None once `stop` returns true."""
        if not shard.tokens:
            return np.empty(0, id_dtype_on_disk(self._index.vocab_size))
        path = self._files.wait(shard.file, stop)
        return path and _mapped(path, shard, self._index)


@contextmanager
def training_rows(artifact: Artifact, index: TokenIndex, made: Mapping[str, Any]) -> Generator[ChunkedRows]:
    """The training rows that `plan` planned in `made`; releases their files at the end."""
    files = FilesAhead(artifact)
    try:
        yield ChunkedRows(files, index, chunks_of(index.train), made)
    finally:
        files.close()


def _planned(made: Mapping[str, Any], split: str) -> list[Planned]:
    return [Planned(*numbers) for numbers in made[split]]


def _mapped(path: Path, shard: TokenShard, index: TokenIndex) -> npt.NDArray[np.integer]:
    """The ids of a shard in a file, memory-mapped."""
    return np.asarray(np.memmap(path, id_dtype_on_disk(index.vocab_size), mode="r", shape=(shard.tokens,)))


def _inputs_and_targets(ids: npt.NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
    on_device = to_device(from_numpy(ids), device)
    return on_device[:, :-1], on_device[:, 1:]
