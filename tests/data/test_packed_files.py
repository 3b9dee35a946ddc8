"""Packed rows in files are those in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aquarat_core.data import packed_files
from aquarat_core.data.packed_files import Rendered, open_rows, write_rendered, write_rows
from aquarat_core.data.packing import plan_conversations
from benchmarks.in_memory import pack_conversations

PAD, T = 7, 31


@pytest.mark.parametrize("vocab_size", [1_000, 70_000])
def test_rows_in_files_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocab_size: int) -> None:
    monkeypatch.setattr(packed_files, "CHUNK_IDS", 100)  # several chunks
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 40, size=400)
    fits = lengths <= T + 1
    ids = [rng.integers(vocab_size, size=n).astype(np.uint32) for n in lengths]
    mask = [rng.integers(2, size=n).astype(np.uint8) for n in lengths]
    no = np.zeros(100, np.bool_)
    parts = []
    for at in range(0, 400, 100):
        there = [i for i in range(at, at + 100) if fits[i]]
        flat = [np.concatenate([column[i] for i in there]) for column in (ids, mask)]
        parts.append(Rendered(flat[0], flat[1], lengths[at : at + 100], fits[at : at + 100], no))
    rendered = write_rendered(tmp_path, parts, vocab_size)
    order = rng.integers(400, size=900)  # some several times, some never
    plan = plan_conversations(rendered.lengths[order], T)
    write_rows(tmp_path, "training", rendered, order, plan, T, PAD, vocab_size)
    rendered.remove()
    rows = open_rows(tmp_path, "training", T, vocab_size)
    expected = pack_conversations([(ids[i].tolist(), mask[i].tolist()) for i in order], T, PAD, vocab_size)
    assert rows.ids.dtype == expected.ids.dtype and np.array_equal(rows.ids, expected.ids)
    assert rows.mask is not None and np.array_equal(rows.mask, expected.mask.astype(bool))
    assert (len(plan.order), plan.too_long, plan.padding(T)) == (expected.kept, expected.too_long, expected.padding)
    inputs, targets = rows.tensors(np.array([0, len(rows) - 1]), torch.device("cpu"))
    assert inputs.shape == targets.shape == (2, T)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["training.ids", "training.mask"]


def test_a_file_that_was_cut_off_is_a_fault(tmp_path: Path) -> None:
    part = Rendered(np.ones(9, np.uint16), np.ones(9, np.uint8), np.array([9]), np.array([True]), np.array([False]))
    rendered = write_rendered(tmp_path, [part], 100)
    rendered.ids.write_bytes(rendered.ids.read_bytes()[:-2])
    order = np.zeros(1, np.int64)
    with pytest.raises(OSError, match="only 16 of 18 bytes could be read"):
        write_rows(tmp_path, "x", rendered, order, plan_conversations(rendered.lengths, T), T, PAD, 100)


def test_pieces_of_documents_are_packed_beside_conversations(tmp_path: Path) -> None:
    """A repeated document's pieces all come again; a conversation that is left out has no ids in between."""
    yes, no = (np.full(3, value, np.bool_) for value in (True, False))
    lengths, pieces = np.array([4, 2, 3]), np.array([2, 0, 1])
    documents = Rendered(np.arange(9), np.ones(9, np.uint8), lengths, yes, no, pieces)
    fits = np.array([True, False, True])
    chats = Rendered(np.arange(20, 25), np.zeros(5, np.uint8), np.array([2, 9, 3]), fits, no)
    rendered = write_rendered(tmp_path, [chats, documents, chats], 100)
    assert rendered.is_document.tolist() == [False] * 3 + [True] * 3 + [False] * 3
    numbers = rendered.pieces_of(np.array([5, 3, 4, 3, 0, 1, 8]))
    assert numbers.tolist() == [5, 3, 4, 3, 4, 0, 1, 8]
    plan = plan_conversations(rendered.lengths[numbers], 3, buffer=1)
    write_rows(tmp_path, "x", rendered, numbers, plan, 3, PAD, 100)
    rows = open_rows(tmp_path, "x", 3, 100)
    assert plan.too_long == 1
    assert rows.ids.tolist() == [
        [6, 7, 8, PAD], [0, 1, 2, 3], [4, 5, PAD, PAD], [0, 1, 2, 3], [4, 5, 20, 21], [22, 23, 24, PAD],
    ]  # fmt: skip
    assert rows.mask is not None and rows.mask.sum() == 3 + 2 * 6
    assert rendered.pieces_of(np.empty(0, np.int64)).tolist() == []
