"""Packed rows as inputs and targets, and the order in which they are seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aquarat_core.data.rows import EpochShuffle, PackedRows, pad
from tests.factories import CPU


def test_targets_are_the_inputs_shifted_by_one() -> None:
    rows = PackedRows(np.arange(12, dtype=np.uint16).reshape(3, 4))
    inputs, targets = rows.tensors(np.array([2, 0]), CPU)
    assert inputs.tolist() == [[8, 9, 10], [0, 1, 2]]
    assert targets.tolist() == [[9, 10, 11], [1, 2, 3]]


def test_the_mask_of_a_token_decides_whether_it_is_a_target() -> None:
    mask = np.array([[True, False, True, False], [False, False, False, True]])
    inputs, targets = PackedRows(np.array([[5, 6, 7, 8], [1, 2, 3, 4]]), mask).tensors(np.array([0, 1]), CPU)
    assert inputs.tolist() == [[5, 6, 7], [1, 2, 3]]
    assert targets.tolist() == [[-1, 7, -1], [-1, -1, 4]]


@pytest.mark.parametrize("per_step", [1, 4, 7, 25])
def test_each_row_comes_once_an_epoch_whatever_the_steps(per_step: int) -> None:
    order = EpochShuffle(10, seed=3)
    steps = -(-30 // per_step)
    seen = np.concatenate([order.rows(step, per_step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(seen[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert seen[:30].tolist() == EpochShuffle(10, seed=3).rows(0, 30).tolist()
    assert seen[:10].tolist() != seen[10:20].tolist()


def test_the_order_is_a_function_of_seed_and_step() -> None:
    late = EpochShuffle(100, seed=3).rows(17, 8)
    visited = EpochShuffle(100, seed=3)
    for step in (0, 30, 5):
        visited.rows(step, 8)
    assert late.tolist() == visited.rows(17, 8).tolist()
    assert late.tolist() != EpochShuffle(100, seed=4).rows(17, 8).tolist()


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no row to train on"):
        EpochShuffle(0, seed=1)


def test_ragged_rows_are_filled_with_zeros() -> None:
    assert pad([[1, 2, 3], (), range(4, 6)]).tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 0]]
    padded = pad([[0.5], [-1.0, 2.0]], torch.float32)
    assert padded.dtype == torch.float32 and padded.tolist() == [[0.5, 0.0], [-1.0, 2.0]]
