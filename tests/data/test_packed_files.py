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
