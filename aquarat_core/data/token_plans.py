"""The rows of token shards, planned from the lengths of documents alone.

Shards are planned in chunks, so that training needs only some of them at a time. The plans are written to files, which
all ranks of a host map into memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aquarat_core.artifacts import Artifact, FileEntry
from aquarat_core.artifacts.transfer import in_order
from aquarat_core.data.packing import Plan, plan_documents, too_little_text
from aquarat_core.data.token_files import TokenShard, read_lengths

CHUNK_TOKENS = 1 << 24
"""The fewest tokens in a chunk, except in the last one; no row has parts of two chunks."""
FETCHED_AT_ONCE = 16
"""Files of lengths: they are small, so most of their time is the store's delay."""

Chunk = tuple[TokenShard, ...]


class Planned(NamedTuple):
    """The size of a chunk's plan."""

    rows: int
    pieces: int
    tokens: int
    """Number of ids of all pieces, whether or not they are in a row."""


def chunks_of(shards: Sequence[TokenShard]) -> list[Chunk]:
    """The shards in runs of at least `CHUNK_TOKENS` tokens; the last may have fewer."""
    chunks: list[Chunk] = []
    run: list[TokenShard] = []
    tokens = 0
    for shard in shards:
        run.append(shard)
        tokens += shard.tokens
        if tokens >= CHUNK_TOKENS:
            chunks.append(tuple(run))
            run, tokens = [], 0
    return [*chunks, tuple(run)] if run else chunks


def write_plans(artifact: Artifact, chunks: Sequence[Chunk], T: int, folder: Path, split: str) -> list[Planned]:
    """Plan rows of T + 1 ids and write them to `<split>.starts`, `<split>.lengths` and `<split>.first`.

    The files of lengths are fetched ahead and not kept. Raises `DataError` if there is not one full row, and as
    `Artifact.path` does.
    """
    done: list[Planned] = []
    files = _PlanFiles.of(folder, split)
    with files.starts.open("wb") as starts, files.lengths.open("wb") as lengths, files.first.open("wb") as first:
        for documents in _lengths(artifact, chunks, folder):
            plan = plan_documents(documents, T)
            plan.starts.tofile(starts)
            plan.lengths.astype(np.int32).tofile(lengths)
            plan.first.tofile(first)
            done.append(Planned(len(plan), len(plan.starts), plan.tokens))
    if not any(planned.rows for planned in done):
        raise too_little_text(sum(planned.tokens for planned in done), T)
    return done


def read_plans(folder: Path, split: str, planned: Sequence[Planned]) -> list[Plan]:
    """The plans that `write_plans` wrote, memory-mapped."""
    files = _PlanFiles.of(folder, split)
    starts, first = (np.asarray(np.memmap(path, np.int64, mode="r")) for path in (files.starts, files.first))
    lengths = np.asarray(np.memmap(files.lengths, np.int32, mode="r"))
    plans: list[Plan] = []
    piece = edge = 0
    for rows, pieces, tokens in planned:
        part = slice(piece, piece + pieces)
        plans.append(Plan(starts[part], lengths[part], first[edge : edge + rows + 1], tokens))
        piece, edge = part.stop, edge + rows + 1
    return plans


def cropped_share(planned: Sequence[Planned], T: int) -> float:
    """Share of the input ids that are in no row."""
    return 1 - sum(p.rows for p in planned) * (T + 1) / sum(p.tokens for p in planned)


@dataclass(frozen=True, slots=True)
class _PlanFiles:
    starts: Path
    lengths: Path
    first: Path

    @classmethod
    def of(cls, folder: Path, split: str) -> _PlanFiles:
        return cls(*(folder / f"{split}.{name}" for name in ("starts", "lengths", "first")))


def _lengths(artifact: Artifact, chunks: Sequence[Chunk], folder: Path) -> Iterator[npt.NDArray[np.uint32]]:
    """The lengths of the documents of each chunk."""
    entries = {entry.path: entry for entry in artifact.manifest.files}
    with tempfile.TemporaryDirectory(dir=folder) as held, ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        tasks = (partial(_fetched, artifact, entries[s.lengths], Path(held)) for chunk in chunks for s in chunk)
        lengths = in_order(pool, tasks, FETCHED_AT_ONCE)
        for chunk in chunks:
            yield np.concatenate([next(lengths) for _ in chunk])


def _fetched(artifact: Artifact, entry: FileEntry, folder: Path) -> npt.NDArray[np.uint32]:
    target = folder / entry.path
    artifact.store.fetch(artifact, entry, target)
    lengths = read_lengths(target)
    target.unlink()
    return lengths
