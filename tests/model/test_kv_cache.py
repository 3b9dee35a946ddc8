"""Decoding with the KV cache gives the results of the full forward pass without it."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.model.kv_cache import Decode, DecodeShape, KVCache, Prefill, last_ids
from aquarat_core.model.transformer import Transformer
from tests.factories import CPU, random_ids, random_model

LENGTHS = (3, 9, 1, 6)
SLOTS = 3


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


@pytest.fixture(params=[None, 3], ids=["one block", "blocks of 3"])
def block(request: pytest.FixtureRequest) -> int | None:
    return request.param


class CachedRows:
    """A KV cache and the token sequence of each of its rows."""

    def __init__(self, model: Transformer, prompts: list[list[int]], rows: int = 12, block: int | None = None) -> None:
        self.model, self.prompts = model, prompts
        size = (len(prompts), max(LENGTHS), SLOTS, rows, 10)
        self.kv_cache = KVCache(model.config, *size, torch.float32, CPU, block)
        for tensor in (self.kv_cache.prompt_k_LPKDT, self.kv_cache.prompt_v_LPKTD, self.kv_cache.row_k_LNRKSD):
            tensor.fill_(77.0)  # leftovers of earlier rows must be invisible
        padded = torch.tensor([p + [99] * (max(LENGTHS) - len(p)) for p in prompts])
        lengths = torch.tensor([len(p) for p in prompts])
        model.hidden(padded, Prefill(self.kv_cache, torch.arange(len(prompts)), lengths))
        self.sequences: list[list[int]] = []

    def start(self, row: int, prompt: int, slot: int) -> None:
        tails = last_ids([self.prompts[prompt]], self.kv_cache.recent_RN.size(1))
        self.kv_cache.start_rows(torch.tensor([row]), torch.tensor([prompt]), torch.tensor([slot]), tails)
        self.sequences[row:] = [list(self.prompts[prompt]), *self.sequences[row + 1 :]]

    def decode(
        self, tokens: list[int], same_age: bool, in_slot_order: bool, same_prompt_len: bool = False
    ) -> torch.Tensor:
        n = len(tokens)
        self.kv_cache.n_generated_R[:n] += 1
        oldest = int(self.kv_cache.n_generated_R[:n].max())
        size = (n, len(self.prompts), max(map(len, self.prompts)), oldest)
        cache = Decode(self.kv_cache, DecodeShape(*size, same_age, in_slot_order, same_prompt_len))
        ids = torch.tensor(tokens)[:, None]
        logits = self.model.logits(self.model.hidden(ids, cache)[:, 0])
        self.sequences = [[*s, t] for s, t in zip(self.sequences, tokens, strict=True)]
        return logits

    def uncached(self) -> torch.Tensor:
        return torch.stack([self.model(torch.tensor([s]))[0, -1] for s in self.sequences])


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def full(model: Transformer, prompts: list[list[int]], block: int | None = None) -> CachedRows:
    rows = CachedRows(model, prompts, block=block)
    for i in range(len(prompts) * SLOTS):
        rows.start(i, i // SLOTS, i % SLOTS)
    return rows


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
def test_rows_share_their_prompt_and_go_their_own_ways(
    model: Transformer, prompts: list[list[int]], fast: bool, block: int | None
) -> None:
    rows = full(model, prompts, block)
    for step in range(5):
        close(rows.decode([(row * row + 3 * step) % 100 for row in range(12)], fast, fast), rows.uncached())


@torch.no_grad()
def test_prompts_of_one_length_need_no_mask_even_if_there_is_room_for_longer_ones(
    model: Transformer, block: int | None
) -> None:
    rows = full(model, [random_ids(5, seed=n).tolist() for n in range(4)], block)
    for step in range(4):
        close(rows.decode([(row * row + 3 * step) % 100 for row in range(12)], True, True, True), rows.uncached())


@torch.no_grad()
def test_rows_of_any_age_in_any_lane_decode_as_if_alone(
    model: Transformer, prompts: list[list[int]], block: int | None
) -> None:
    rows = CachedRows(model, prompts, block=block)
    for row, (prompt, slot) in enumerate([(2, 1), (0, 0), (2, 0), (3, 2)]):
        rows.start(row, prompt, slot)
    for step in range(3):
        close(rows.decode([step, 2, 3 * step, 4], False, False), rows.uncached())
    rows.start(1, 1, 2)  # in the place of a row that has ended
    rows.start(4, 0, 1)
    for step in range(3):
        close(rows.decode([step, 5, 6 * step, 7, 8], False, False), rows.uncached())


@torch.no_grad()
def test_moved_rows_and_prompts_go_on_where_they_were(
    model: Transformer, prompts: list[list[int]], block: int | None
) -> None:
    rows = full(model, prompts, block)
    rows.decode(list(range(12)), True, True)
    rows.decode(list(range(12, 24)), True, True)
    # All rows of prompts 1 and 0 but one end; what is left moves to the front.
    rows.kv_cache.move_rows(torch.tensor([6, 7, 8, 9, 10, 11]), torch.tensor([0, 1, 2, 4, 5, 3]), n_generated=2)
    s = rows.sequences
    rows.sequences = [s[6], s[7], s[8], s[11], s[9], s[10]]
    rows.kv_cache.move_prompts(torch.tensor([2, 3]), torch.tensor([0, 1]), max(map(len, prompts)))
    rows.prompts = [prompts[2], prompts[3]]
    for step in range(4):
        close(rows.decode([step] * 6, True, False), rows.uncached())


@torch.no_grad()
def test_a_prefill_gives_the_logits_of_training(model: Transformer, prompts: list[list[int]]) -> None:
    kv_cache = KVCache(model.config, 4, 9, 1, 1, 1, torch.float32, CPU)
    ids = torch.tensor([prompts[1]])
    logits = model.logits(model.hidden(ids, Prefill(kv_cache, torch.tensor([2]), torch.tensor([9]))))
    close(logits, model(ids))


def test_the_last_ids_of_short_prompts_are_missing() -> None:
    assert last_ids([[1, 2, 3], [4], []], 2).tolist() == [[2, 3], [-1, 4], [-1, -1]]
    assert last_ids([[1, 2, 3]], 0).shape == (1, 0)


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 2, 4, 9])
def test_layers_with_a_window_see_no_further(prompts: list[list[int]], window: int, block: int | None) -> None:
    model = random_model()
    model.blocks[0].attention.window = window
    rows = full(model, prompts, block)
    for step in range(5):
        close(rows.decode([(row * row + 3 * step) % 100 for row in range(12)], step % 2 == 0, True), rows.uncached())
