"""Decoding with the cache against the full forward pass that needs none."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.model.kv_cache import KVCache
from aquarat_core.model.transformer import Transformer
from tests.toys import CPU, random_ids, random_model

LENGTHS = (3, 9, 1, 6)


def prefilled(model: Transformer, prompts: list[list[int]], slots: int) -> KVCache:
    """The cache after prompts of different lengths, padded at the right with tokens that must not matter."""
    longest = max(map(len, prompts))
    padded = torch.tensor([p + [99] * (longest - len(p)) for p in prompts])
    cache = KVCache(model.config, len(prompts), slots, torch.float32, CPU)
    model.hidden(padded, cache)
    cache.truncate(torch.tensor([len(p) for p in prompts]))
    return cache


def decode(model: Transformer, cache: KVCache, tokens: list[int]) -> torch.Tensor:
    return model.logits(model.hidden(torch.tensor(tokens)[:, None], cache)[:, 0])


def uncached(model: Transformer, sequences: list[list[int]]) -> torch.Tensor:
    return torch.stack([model(torch.tensor([s]))[0, -1] for s in sequences])


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


OPTIONS = {
    "full": {},
    "2 shared": {"n_kv_head": 2},
    "1 shared": {"n_kv_head": 1},
    "2 taps": {"embedding_taps": 2},
    "modern": {
        "width_per_layer": 24, "head_size": 12, "value_embeddings": True, "residual_lambdas": True, "smear": True,
        "backout": True,
    },
}  # fmt: skip


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return random_model(**request.param)


@pytest.fixture
def prompts() -> list[list[int]]:
    return [random_ids(n, seed=n).tolist() for n in LENGTHS]


@torch.no_grad()
def test_ragged_rows_decode_as_if_alone(model: Transformer, prompts: list[list[int]]) -> None:
    cache = prefilled(model, prompts, slots=20)
    sequences = [list(p) for p in prompts]
    for step in range(8):
        new = [(7 * row + 3 * step) % 100 for row in range(4)]
        sequences = [[*s, t] for s, t in zip(sequences, new, strict=True)]
        close(decode(model, cache, new), uncached(model, sequences))
    assert cache.lengths_B.tolist() == [n + 8 for n in LENGTHS]


@torch.no_grad()
def test_prefill_gives_the_logits_of_every_position(model: Transformer, prompts: list[list[int]]) -> None:
    cache = KVCache(model.config, 1, 20, torch.float32, CPU)
    close(model.logits(model.hidden(torch.tensor([prompts[1]]), cache)), model(torch.tensor([prompts[1]])))
    # and several tokens at once may follow what is there
    more = random_ids(1, 5, seed=8)
    whole = torch.cat((torch.tensor([prompts[1]]), more), dim=1)
    close(model.logits(model.hidden(more, cache)), model(whole)[:, 9:])


@torch.no_grad()
def test_repeated_rows_share_a_prompt_and_go_their_own_ways(model: Transformer, prompts: list[list[int]]) -> None:
    cache = prefilled(model, prompts, slots=9).repeat(3, slots=12)
    sequences = [list(p) for p in prompts for _ in range(3)]
    for step in range(3):
        new = [(row * row + step) % 100 for row in range(12)]
        sequences = [[*s, t] for s, t in zip(sequences, new, strict=True)]
        close(decode(model, cache, new), uncached(model, sequences))


@torch.no_grad()
def test_kept_rows_go_on_in_the_order_asked_for(model: Transformer, prompts: list[list[int]]) -> None:
    cache = prefilled(model, prompts, slots=16)
    decode(model, cache, [1, 2, 3, 4])
    cache.keep(torch.tensor([3, 0]))
    sequences = [[*prompts[3], 4], [*prompts[0], 1]]
    for step in range(4):
        sequences = [[*s, step] for s in sequences]
        close(decode(model, cache, [step, step]), uncached(model, sequences))


def test_more_slots_than_the_model_has_positions_are_refused(model: Transformer) -> None:
    with pytest.raises(ValueError, match="65 tokens do not fit the model's sequence_len of 64"):
        KVCache(model.config, 1, 65, torch.float32, CPU)
