"""Validation loss and bits per byte, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aquarat_core.data.rows import PackedRows
from aquarat_core.model.bits_per_byte import score_rows
from tests.factories import ONE, random_ids, random_model

TOKEN_BYTES = np.array([0, 1, 2, 3] + [1] * 96, dtype=np.int32)


def test_a_uniform_model() -> None:
    model = random_model(100)
    torch.nn.init.zeros_(model.head.weight)
    ids = np.array([[0, 1, 2, 3, 0], [3, 3, 1, 0, 2]])
    scores = score_rows(model, PackedRows(ids), 10, 1, TOKEN_BYTES, ONE)
    assert scores["val/loss"] == pytest.approx(math.log(100), rel=1e-6)
    # Six targets with text, 1 + 2 + 3 and 3 + 1 + 2 bytes; two specials, which count in neither sum.
    assert scores["val/bpb"] == pytest.approx(6 * math.log2(100) / 12, rel=1e-6)


def test_only_targets_of_the_first_rows_count() -> None:
    model = random_model(100)
    torch.nn.init.zeros_(model.head.weight)
    ids = np.array([[0, 1, 2, 3, 0], [3, 3, 1, 0, 2], [9, 9, 9, 9, 9]])
    mask = np.array([[True, True, False, False, True], [False] * 4 + [True], [True] * 5])
    scores = score_rows(model, PackedRows(ids, mask), 2, 8, TOKEN_BYTES, ONE)
    assert scores["val/bpb"] == pytest.approx(2 * math.log2(100) / 3, rel=1e-6)  # the targets 1, 0 and 2


def test_against_the_sum_over_single_tokens() -> None:
    model, ids = random_model(100), random_ids(5, 33)
    nats, n_bytes = [], 0
    with torch.no_grad():
        for row in ids.tolist():
            logp = torch.log_softmax(model(torch.tensor([row[:-1]]))[0].double(), dim=1)
            nats += [(token, -float(logp[i, token])) for i, token in enumerate(row[1:])]
            n_bytes += sum(TOKEN_BYTES[token] for token in row[1:])
    for micro_batch in (1, 2, 5):
        scores = score_rows(model, PackedRows(ids.numpy()), 5, micro_batch, TOKEN_BYTES, ONE)
        assert scores["val/loss"] == pytest.approx(sum(x for _, x in nats) / len(nats), rel=1e-5)
        bits = sum(x for token, x in nats if token) / math.log(2)
        assert scores["val/bpb"] == pytest.approx(bits / n_bytes, rel=1e-5)


def test_rows_of_specials_alone_have_no_bits_per_byte() -> None:
    ids = np.zeros((2, 9), dtype=np.int64)
    assert set(score_rows(random_model(), PackedRows(ids), 2, 2, TOKEN_BYTES, ONE)) == {"val/loss"}
