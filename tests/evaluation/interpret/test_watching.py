"""The model that is watched computes what it computes alone, and the weights shown are those it attends by."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.evaluation.interpret import watching
from aquarat_core.evaluation.interpret.watching import all_attention, attention_from, attention_of, watch
from aquarat_core.model.transformer import attend
from tests.factories import random_ids, random_model

OPTIONS = {
    "plain": {},
    "shared": {"n_kv_head": 2},
    "taps": {"embedding_taps": 3},
    "smear": {"smear": True},
    "values": {"value_embeddings": True, "residual_lambdas": True},
    "backout": {"backout": True},
    "windows": {"window_pattern": "SL", "sequence_len": 256},
}
every_option = pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS.keys())


@every_option
def test_a_watched_pass_is_the_same_pass(config: dict) -> None:
    model, ids = random_model(**config), random_ids(2, 40)
    seen: list[tuple[int, tuple[int, ...], int]] = []
    hidden = watch(model, ids, lambda layer, q, _k, window: seen.append((layer, tuple(q.shape), window)))
    with torch.no_grad():
        assert torch.equal(hidden, model.hidden(ids))
    assert seen == [(i, (2, 4, 40, 8), window) for i, window in enumerate(model.config.windows)]


@pytest.mark.parametrize("window", [200, 7, 1])
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_weights_are_those_of_the_kernel(window: int, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(window + heads)
    q = torch.randn(3, 4, 50, 8, generator=generator)
    k, v = (torch.randn(3, heads, 50, 8, generator=generator) for _ in range(2))
    v_of_every_head = v.repeat_interleave(4 // heads, dim=1)
    expected = attend(q, k, v, window)
    monkeypatch.setattr(watching, "MAX_WEIGHTS", 3 * 4 * 50 * 7)  # seven queries at a time
    parts = list(all_attention(q, k, window))
    assert [first for first, _ in parts] == list(range(0, 50, 7))
    found = torch.cat([a @ v_of_every_head[:, :, : a.size(3)] for _, a in parts], dim=2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    position = torch.tensor([49, 0, 20])
    one = attention_from(q, k, position, window)[:, :, None] @ v_of_every_head
    torch.testing.assert_close(one[:, :, 0], expected[torch.arange(3), :, position], atol=1e-5, rtol=1e-5)
    tail = attention_of(q[:, :, 30:], k, 30, window) @ v_of_every_head
    torch.testing.assert_close(tail, expected[:, :, 30:], atol=1e-5, rtol=1e-5)
