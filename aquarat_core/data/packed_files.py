"""Conversations and documents as token ids in files: first concatenated, then as packed rows that ranks map into
memory.

Neither file is ever in memory as a whole while it is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aquarat_core.data.packing import ConversationPlan, id_dtype
from aquarat_core.data.rows import PackedRows
from aquarat_core.data.turns import edges

CHUNK_IDS = 2_000_000
"""Approximate number of ids in the rows that are assembled at a time."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """N conversations, or N pieces of documents, as tokens; those that fit are concatenated."""

    ids: npt.NDArray[np.integer]
    mask: npt.NDArray[np.uint8]
    """Same shape as `ids`; 1 for ids that are trained on."""
    lengths: npt.NDArray[np.int64]
    """[N] number of ids of each conversation; more than fit if it is left out, and then its ids are not in `ids`."""
    fits: npt.NDArray[np.bool_]
    """[N]"""
    trimmed: npt.NDArray[np.bool_]
    """[N] True if it fits only because its last turns were cut."""
    pieces: npt.NDArray[np.int64] | None = None
    """[D] of documents: the number of pieces of each, N together. None for conversations, which are whole."""


@dataclass(frozen=True, slots=True)
class RenderedFiles:
    """V pieces as tokens in two flat files, which leave out those that did not fit: of R rows of a mixture, each
    conversation is one piece, and each document one or more."""

    ids: Path
    mask: Path
    starts: npt.NDArray[np.int64]
    """[V] start of each piece, in ids."""
    lengths: npt.NDArray[np.int64]
    """[V] as in `Rendered`."""
    trimmed: npt.NDArray[np.bool_]
    """[V] as in `Rendered`."""
    pieces: npt.NDArray[np.int64]
    """[R] number of pieces of each row."""
    is_document: npt.NDArray[np.bool_]
    """[R]"""

    def pieces_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The numbers of the pieces of these rows, one row after another."""
        counts = self.pieces[rows]
        first = edges(self.pieces)[rows]
        return np.repeat(first - edges(counts)[:-1], counts) + np.arange(counts.sum(), dtype=np.int64)

    def remove(self) -> None:
        """Delete the files when they are no longer needed."""
        self.ids.unlink()
        self.mask.unlink()


def write_rendered(folder: Path, parts: Iterable[Rendered], vocab_size: int) -> RenderedFiles:
    """Write `parts` one after another to `rendered.ids` and `rendered.mask`."""
    dtype = id_dtype(vocab_size)
    # Starts with an empty array, because `concatenate` needs at least one.
    lengths, fits, trimmed = [np.empty(0, np.int64)], [np.empty(0, np.bool_)], [np.empty(0, np.bool_)]
    pieces, is_document = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    ids_path, mask_path = folder / "rendered.ids", folder / "rendered.mask"
    with ids_path.open("wb") as ids, mask_path.open("wb") as mask:
        for part in parts:
            part.ids.astype(dtype, copy=False).tofile(ids)
            part.mask.tofile(mask)
            lengths.append(part.lengths)
            fits.append(part.fits)
            trimmed.append(part.trimmed)
            pieces.append(np.ones(len(part.lengths), np.int64) if part.pieces is None else part.pieces)
            is_document.append(np.full(len(pieces[-1]), part.pieces is not None))
    every = np.concatenate(lengths)
    sizes = np.where(np.concatenate(fits), every, 0)
    return RenderedFiles(
        ids_path,
        mask_path,
        edges(sizes)[:-1],
        every,
        np.concatenate(trimmed),
        np.concatenate(pieces),
        np.concatenate(is_document),
    )


def write_rows(
    folder: Path,
    name: str,
    rendered: RenderedFiles,
    order: npt.NDArray[np.int64],
    plan: ConversationPlan,
    T: int,
    pad: int,
    vocab_size: int,
) -> None:
    """Write the rows of `plan` as `<name>.ids` and `<name>.mask`. Conversation i of the plan is piece `order[i]` of
    `rendered`."""
    n = max(1, CHUNK_IDS // (T + 1))
    with ExitStack() as files:
        ids_in, mask_in = (files.enter_context(path.open("rb")) for path in (rendered.ids, rendered.mask))
        ids_out, mask_out = (files.enter_context(path.open("wb")) for path in _row_files(folder, name))
        for start in range(0, len(plan), n):
            rows = range(start, min(start + n, len(plan)))
            ids = np.full((len(rows), T + 1), pad, id_dtype(vocab_size))
            mask = np.zeros((len(rows), T + 1), np.uint8)
            for i, row in enumerate(rows):
                at = 0
                for number in order[plan.row(row)].tolist():
                    begin, length = int(rendered.starts[number]), int(rendered.lengths[number])
                    _read(ids_in.fileno(), ids[i, at : at + length], begin)
                    _read(mask_in.fileno(), mask[i, at : at + length], begin)
                    at += length
            ids.tofile(ids_out)
            mask.tofile(mask_out)


def open_rows(folder: Path, name: str, T: int, vocab_size: int) -> PackedRows:
    """The rows that `write_rows` wrote, memory-mapped: all processes of a host share their pages."""
    ids, mask = _row_files(folder, name)
    mapped = np.memmap(ids, id_dtype(vocab_size), mode="r").reshape(-1, T + 1)
    return PackedRows(np.asarray(mapped), np.asarray(np.memmap(mask, np.bool_, mode="r").reshape(-1, T + 1)))


def _row_files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.ids", folder / f"{name}.mask"


def _read(file: int, out: npt.NDArray[np.integer], begin: int) -> None:
    """Fill `out` from item `begin` of an open file; mapping the file would fill memory with its pages."""
    read = os.preadv(file, [out.view(np.uint8).data], begin * out.itemsize)
    if read != out.nbytes:
        raise OSError(f"only {read:,} of {out.nbytes:,} bytes could be read from a scratch file at {begin:,}")
