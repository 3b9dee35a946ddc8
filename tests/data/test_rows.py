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


# --- rows in chunks ---------------------------------------------------------------------------------------------------

CHUNKS = [7, 3, 0, 5, 9, 4, 6, 8, 2]
FIRST = np.cumsum([0, *CHUNKS])


def chunks_of_rows(rows: np.ndarray) -> set[int]:
    return set((np.searchsorted(FIRST, rows, side="right") - 1).tolist())


@pytest.mark.parametrize("per_step", [1, 5, 13, 60])
def test_each_row_comes_once_an_epoch_window_by_window(per_step: int) -> None:
    order, n = EpochShuffle(CHUNKS, seed=3, window=3), sum(CHUNKS)
    steps = -(-3 * n // per_step)
    seen = np.concatenate([order.rows(step, per_step) for step in range(steps)])
    epochs = [seen[e * n : (e + 1) * n] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(n))
    assert epochs[0].tolist() != epochs[1].tolist()
    # The chunks of one window come before those of the next, and windows are other ones in each epoch.
    together = []
    for epoch in epochs:
        last = [max(np.flatnonzero((FIRST[c] <= epoch) & (epoch < FIRST[c + 1]))) for c in range(9) if CHUNKS[c]]
        together.append(np.argsort(last).tolist())
    assert together[0] != together[1]


def test_rows_in_windows_are_a_function_of_seed_and_step() -> None:
    visited = EpochShuffle(CHUNKS, seed=3, window=2)
    for step in range(40):
        late = EpochShuffle(CHUNKS, seed=3, window=2)
        assert late.rows(step, 5).tolist() == visited.rows(step, 5).tolist()
        assert late.chunks(step, 5, 40) == visited.chunks(step, 5, 40)


@pytest.mark.parametrize("per_step", [1, 2])
def test_a_step_much_shorter_than_a_window_needs_the_chunks_of_two_at_most(per_step: int) -> None:
    order, steps = EpochShuffle(CHUNKS, seed=3, window=3), 60
    ahead_before: list[int] = []
    needed_before: list[int] = []
    for step in range(steps):
        needed, ahead = order.chunks(step, per_step, steps)
        assert chunks_of_rows(order.rows(step, per_step)) <= {*needed}
        assert 2 <= len(needed) <= 6 and 2 not in (*needed, *ahead), "a chunk without rows is in no window"
        if step:
            assert {*needed} <= {*needed_before, *ahead_before}, "it was wanted before it was needed"
        assert len(needed) + len(ahead) <= 6
        needed_before, ahead_before = needed, ahead
    assert ahead_before == [], "nothing is fetched for steps that never come"


def test_rows_in_one_window_are_in_the_order_of_rows_that_are_in_no_chunks() -> None:
    n = sum(CHUNKS)
    plain = np.concatenate([np.random.default_rng((2**40, epoch)).permutation(n) for epoch in range(3)])
    for order in (EpochShuffle(CHUNKS, 2**40, window=8), EpochShuffle(n, 2**40), EpochShuffle([n], 2**40)):
        assert order.rows(0, 3 * n).tolist() == plain.tolist()
