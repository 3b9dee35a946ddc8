"""The transformer against its own definition: what it may see, what it starts from and what it costs."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from aquarat_core.config import ModelConfig, accounting
from aquarat_core.model import fused
from aquarat_core.model.transformer import Transformer, attend, rotary_table, rotate
from tests.factories import random_ids, random_model

MODERN = {
    "head_size": 16, "value_embeddings": True, "residual_lambdas": True, "smear": True, "backout": True,
    "width_per_layer": 32,
}  # fmt: skip
CONFIGS = [
    ({}, 100),
    ({"n_kv_head": 2}, 64),
    ({"n_kv_head": 1, "depth": 3}, 65),
    ({"embedding_taps": 3}, 100),
    ({"depth": 1, "width_per_layer": 24, "head_size": 12}, 301),
    (MODERN, 100),
    (MODERN | {"depth": 3, "n_kv_head": 2, "window_pattern": "SSSL"}, 65),
]


def config(**changes) -> ModelConfig:
    return ModelConfig(**{"depth": 2, "width_per_layer": 16, "head_size": 8, "sequence_len": 64} | changes)


@pytest.mark.parametrize(("changes", "vocab_size"), CONFIGS)
def test_counted_parameters_are_the_models(changes: dict, vocab_size: int) -> None:
    model = Transformer(config(**changes), vocab_size)
    assert accounting.parameters(config(**changes), vocab_size) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("depth", "total", "value", "scaling"),
    [
        (4, 36.7, 16.8, 11.5), (6, 73.5, 37.7, 23.2), (8, 125.8, 67.1, 41.9), (12, 286.3, 151, 110.1),
        (16, 536.9, 268, 234.9), (20, 896.5, 419, 435.2), (24, 1384, 604, 729.8), (26, 1682, 709, 918.4),
    ],
)  # fmt: skip
def test_the_sizes_of_the_field(depth: int, total: float, value: float, scaling: float) -> None:
    """Millions of parameters of the small recipe of 2026 at a vocabulary of 32,768, as published."""
    modern = config(**MODERN | {"depth": depth, "width_per_layer": 64, "head_size": 128 if depth % 2 == 0 else 64})
    assert accounting.parameters(modern, 32768) / 1e6 == pytest.approx(total, abs=0.5, rel=5e-4)
    assert accounting.value_embedding_parameters(modern, 32768) / 1e6 == pytest.approx(value, abs=0.5)
    assert accounting.scaling_parameters(modern, 32768) / 1e6 == pytest.approx(scaling, abs=0.06)


def test_memory_is_about_what_the_backward_pass_keeps() -> None:
    model = random_model(dtype=torch.bfloat16, depth=3, width_per_layer=32, head_size=32, sequence_len=256)
    weights = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = random_ids(4, 257)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.loss_sum(ids[:, :-1], ids[:, 1:])
    none, four = (accounting.training_bytes(model.config, 100, rows, keeps_attention=True) for rows in (0, 4))
    assert 0.75 < sum(kept.values()) / (four - none) < 1.0
    with_logits = accounting.training_bytes(model.config, 100, 4, keeps_attention=True, keeps_logits=True)
    assert with_logits - four == 2 * 2 * 4 * 256 * 128  # bfloat16 and their gradient, of the padded vocabulary
    # Masters, gradients and moments: 4 float32 a table's weight, 3 a matrix's.
    matrices, all_weights = accounting.matrix_parameters(model.config), accounting.parameters(model.config, 100)
    assert none == 4 * (4 * all_weights - matrices)


def test_windows() -> None:
    assert config(window_pattern="SSSL", depth=6, sequence_len=2048).windows == (512, 512, 512, 2048, 512, 2048)
    assert config(window_pattern="S", depth=2, sequence_len=64).windows == (64, 64)
    assert [config(value_embeddings=True, depth=5).has_value_embedding(i) for i in range(5)] == [True, False] * 2 + [
        True
    ]
    with pytest.raises(ValueError, match="smear and embedding_taps both mix in"):
        config(smear=True, embedding_taps=1)


def test_flops_by_hand() -> None:
    # A block of width 32: 4 x 32^2 of attention and 8 x 32^2 of MLP; the head has 128 rows for 100 tokens.
    weights = 2 * 12 * 32 * 32 + 128 * 32
    assert accounting.matrix_parameters(config()) == 24_576
    assert accounting.flops_per_token(config(), 100) == 6 * weights + 12 * 2 * 32 * 64 == 221_184
    assert accounting.kv_bytes_per_token(config()) == 2 * 2 * 32 * 2
    assert accounting.kv_bytes_per_token(config(n_kv_head=1), 4) == 2 * 2 * 8 * 4


def test_flops_are_what_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "ATTENTION_BLOCK", 64)  # or it skips what is masked
    model = random_model(100, dtype=torch.bfloat16)
    ids = random_ids(2, 65)
    with FlopCounterMode(display=False) as counter:
        model.loss_sum(ids[:, :-1], ids[:, 1:]).backward()
    assert counter.get_total_flops() == 2 * 64 * accounting.flops_per_token(model.config, 100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_kv_head", [None, 2])
@pytest.mark.parametrize("taps", [0, 2])
def test_no_token_sees_a_later_one(dtype: torch.dtype, n_kv_head: int | None, taps: int) -> None:
    model = random_model(dtype=dtype, n_kv_head=n_kv_head, embedding_taps=taps)
    ids = random_ids(1, 40)
    changed = ids.clone()
    changed[0, 25] = (ids[0, 25] + 1) % 100
    before, after = model(ids)[0], model(changed)[0]
    assert torch.equal(before[:25], after[:25])
    assert ((before[25:] - after[25:]).abs().amax(dim=1) > 1e-3).all()


def test_attention_by_hand() -> None:
    generator = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(1, 1, 3, 8, generator=generator) for _ in range(3))
    scores = [torch.stack([q[0, 0, t] @ k[0, 0, s] / math.sqrt(8) for s in range(t + 1)]) for t in range(3)]
    expected = torch.stack([scores[t].softmax(0) @ v[0, 0, : t + 1] for t in range(3)])
    torch.testing.assert_close(attend(q, k, v, 3)[0, 0], expected)
    expected[2] = scores[2][1:].softmax(0) @ v[0, 0, 1:3]
    torch.testing.assert_close(attend(q, k, v, 2)[0, 0], expected)


def test_shared_heads_are_full_heads_with_equal_keys_and_values() -> None:
    shared, full = random_model(n_kv_head=2), random_model()
    weights = shared.state_dict()
    for name in [n for n in weights if ".k." in n or ".v." in n]:
        heads = weights[name].view(2, 8, 32)
        weights[name] = heads.repeat_interleave(2, dim=0).reshape(32, 32)
    full.load_state_dict(weights)
    ids = random_ids(2, 30)
    torch.testing.assert_close(shared(ids), full(ids), atol=1e-5, rtol=0)


@torch.no_grad()
def test_taps_add_the_scaled_embeddings_of_the_tokens_before() -> None:
    model, ids = random_model(embedding_taps=2), random_ids(1, 5)
    embeddings, (last, second) = model.embedding(ids)[0], model.taps
    mixed = embeddings.clone()
    mixed[1:] += last * embeddings[:-1]
    mixed[2:] += second * embeddings[:-2]
    plain = random_model()
    plain.load_state_dict(model.state_dict() | {"taps": plain.taps})
    plain.embedding.weight[ids[0]] = mixed
    torch.testing.assert_close(model(ids), plain(ids), atol=1e-5, rtol=0)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rotary_table(64, 8, 10_000.0)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(5))

    def score(i: int, j: int) -> float:
        return float((rotate(q, cos[i], sin[i]) * rotate(k, cos[j], sin[j])).sum())

    assert score(7, 3) == pytest.approx(score(54, 50), abs=1e-5)
    assert abs(score(7, 3) - score(7, 4)) > 1e-2
    assert float(rotate(q, cos[9], sin[9]).norm()) == pytest.approx(float(q.norm()), rel=1e-6)


def test_logits_stay_within_the_softcap_and_keep_their_order() -> None:
    model = random_model(softcap=5.0)
    with torch.no_grad():
        model.head.weight.mul_(20)
    hidden = model.hidden(random_ids(4, 30))
    raw = (hidden @ model.head.weight.T)[..., :100]
    logits = model.logits(hidden)
    assert raw.abs().max() > 50 and 4.9 < logits.abs().max() <= 5.0
    torch.testing.assert_close(logits, 5 * torch.tanh(raw / 5))


def test_padding_rows_of_the_head_are_no_tokens() -> None:
    model = random_model(vocab_size=65)
    with torch.no_grad():
        model.head.weight[65:] = 100.0
    ids = random_ids(1, 20, vocab_size=65)
    before = model.token_losses(ids[:, :-1], ids[:, 1:])
    with torch.no_grad():
        model.head.weight[65:] = -100.0
    assert model(ids).shape == (1, 20, 65)
    assert torch.equal(before, model.token_losses(ids[:, :-1], ids[:, 1:]))


@torch.no_grad()
@pytest.mark.parametrize("vocab_size", [100, 1000])
def test_a_fresh_model_knows_nothing(vocab_size: int) -> None:
    model = Transformer(config(), vocab_size)
    model.init_weights(torch.Generator().manual_seed(0))
    ids = random_ids(8, 65, vocab_size=vocab_size)
    losses = model.token_losses(ids[:, :-1], ids[:, 1:])
    assert float(losses.mean()) == pytest.approx(math.log(vocab_size), abs=1e-3)
    assert losses.std() < 0.02
    # Its blocks are the identity: their outputs start at zero.
    torch.testing.assert_close(
        model.hidden(ids[:, :-1]), F.rms_norm(model.embedding(ids[:, :-1]), (32,)), atol=1e-5, rtol=0
    )


def test_the_generator_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = Transformer(config(), 100)
        model.init_weights(torch.Generator().manual_seed(seed))
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


@torch.no_grad()
def test_losses_are_cross_entropies_and_zero_where_ignored() -> None:
    model, ids = random_model(), random_ids(2, 11)
    targets = ids[:, 1:].clone()
    targets[0, 3] = -1
    losses = model.token_losses(ids[:, :-1], targets)
    logp = torch.log_softmax(model(ids[:, :-1]), dim=-1)
    assert losses[0, 3] == 0.0
    for row, position in ((0, 2), (0, 4), (1, 3)):
        assert float(losses[row, position]) == pytest.approx(
            -float(logp[row, position, ids[row, position + 1]]), rel=1e-5
        )


def test_too_long_a_sequence_is_refused() -> None:
    model = random_model()
    assert model(random_ids(1, 64)).shape == (1, 64, 100)
    with pytest.raises(ValueError, match="65 tokens do not fit the model's sequence_len of 64"):
        model(random_ids(1, 65))


def test_heads_must_fit() -> None:
    with pytest.raises(ValueError, match="n_kv_head 3 does not divide the 4 query heads"):
        config(n_kv_head=3)
    with pytest.raises(ValueError, match="head_size 12 does not divide the width 32"):
        config(head_size=12)


@pytest.mark.parametrize("n_kv_head", [None, 2])
def test_mimetic_attention_begins_by_matching_equal_tokens(n_kv_head: int | None) -> None:
    model = Transformer(config(n_kv_head=n_kv_head, mimetic_init=True), 100)
    model.init_weights(torch.Generator().manual_seed(1))
    attention = model.blocks[0].attention
    x_TC = F.rms_norm(model.embedding(torch.arange(60)), (model.config.dim,))
    q_THD = attention.q(x_TC).view(60, attention.n_head, -1)
    k_TKD = attention.k(x_TC).view(60, attention.n_kv_head, -1)
    for kv_head in range(attention.n_kv_head):
        query = kv_head * attention.n_head // attention.n_kv_head
        scores_TT = F.normalize(q_THD[:, query], dim=-1) @ F.normalize(k_TKD[:, kv_head], dim=-1).T
        assert torch.equal(scores_TT.argmax(dim=1), torch.arange(60))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_laid_out_for_generation_give_the_same_logits_and_take_new_weights(dtype: torch.dtype) -> None:
    plain, other = (random_model(seed=seed, n_kv_head=2, dtype=dtype) for seed in (1, 2))
    ids, prepared = random_ids(12)[None], copy.deepcopy(plain)
    prepared.prepare_generation()
    torch.testing.assert_close(prepared(ids), plain(ids), atol=0.1 if dtype == torch.bfloat16 else 1e-4, rtol=0)
    prepared.load_state_dict(other.state_dict())
    torch.testing.assert_close(prepared(ids), other(ids), atol=0.1 if dtype == torch.bfloat16 else 1e-4, rtol=0)


def test_a_copy_of_a_model_laid_out_for_generation_can_be_trained() -> None:
    prepared, ids = random_model(), random_ids(12)[None]
    prepared.prepare_generation()
    trained = copy.deepcopy(prepared)
    trained(ids).square().sum().backward()
    assert all(p.grad is not None for p in trained.blocks[0].attention.parameters())
    with torch.no_grad():
        for p in trained.blocks[0].attention.parameters():
            p.add_(p.grad, alpha=1e-3)
        without_grad = trained(ids)
    torch.testing.assert_close(without_grad, trained(ids).detach(), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(without_grad, prepared(ids).detach(), atol=1e-2)
