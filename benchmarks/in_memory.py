"""Packed conversations in memory instead of the files of `data.packed_files`, for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aquarat_core.data.packing import BUFFER, id_dtype, plan_conversations


@dataclass(frozen=True, slots=True)
class PackedConversations:
    """Rows of whole conversations, in memory."""

    ids: npt.NDArray[np.integer]
    """[N, T + 1], uint16 or int32, padded at the end."""
    mask: npt.NDArray[np.uint8]
    """[N, T + 1]; 1 where the id is learned, 0 elsewhere and on padding."""
    kept: int
    too_long: int
    """Conversations left out because they are longer than a row."""
    padding: float
    """Share of the ids that are padding."""


def pack_conversations(
    conversations: Iterable[tuple[Sequence[int], Sequence[int]]],
    T: int,
    pad: int,
    vocab_size: int,
    buffer: int = BUFFER,
) -> PackedConversations:
    """`plan_conversations` of `conversations`, each (ids, mask) as `text.chat.render` gives them, and its rows.

    Everything is in memory; `data.packed_files` has the same rows in files.
    """
    given = [(np.asarray(ids), np.asarray(mask, np.uint8)) for ids, mask in conversations]
    plan = plan_conversations(np.array([len(ids) for ids, _ in given], np.int64), T, buffer)
    packed = np.full((len(plan), T + 1), pad, id_dtype(vocab_size))
    learned = np.zeros((len(plan), T + 1), np.uint8)
    for i in range(len(plan)):
        row = [given[number] for number in plan.row(i)]
        flat = np.concatenate([ids for ids, _ in row])
        packed[i, : len(flat)] = flat
        learned[i, : len(flat)] = np.concatenate([mask for _, mask in row])
    return PackedConversations(packed, learned, len(plan.order), plan.too_long, plan.padding(T))
