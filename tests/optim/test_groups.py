"""Which optimizer owns what, at which rate, and what one step of each does."""

from __future__ import annotations

import pytest
import torch

from aquarat_core.config import OptimConfig
from aquarat_core.optim.groups import build_optimizers, gradient_norm, set_lr
from tests.toys import random_ids, random_model


def test_every_parameter_has_one_owner_and_its_rate() -> None:
    model = random_model(n_kv_head=2, embedding_taps=2)
    muon, adam = build_optimizers(
        model, OptimConfig(matrix_lr=0.02, embedding_lr=0.2, unembedding_lr=0.004, lr_scale=0.5)
    )
    owned = [p for optimizer in (muon, adam) for group in optimizer.param_groups for p in group["params"]]
    assert len(owned) == len(set(map(id, owned))) == len(list(model.parameters())) == 2 * 6 + 3
    assert set(map(id, muon.param_groups[0]["params"])) == set(map(id, model.blocks.parameters()))
    width = (32 / 768) ** -0.5
    assert [g["params"] for g in adam.param_groups] == [[model.embedding.weight], [model.head.weight], [model.taps]]
    assert [g["peak_lr"] for g in muon.param_groups] == pytest.approx([0.01])
    assert [g["peak_lr"] for g in adam.param_groups] == pytest.approx([0.1 * width, 0.002 * width, 0.002 * width])


def test_rates_are_shares_of_their_peak() -> None:
    optimizers = build_optimizers(random_model(), OptimConfig())
    for factor in (0.25, 1.0, 0.5):
        set_lr(optimizers, factor)
        for group in (g for o in optimizers for g in o.param_groups):
            assert group["lr"] == pytest.approx(factor * group["peak_lr"])


def test_gradient_norm_is_that_of_all_gradients_in_a_row() -> None:
    model, ids = random_model(), random_ids(4, 20)
    model.token_losses(ids[:, :-1], ids[:, 1:]).mean().backward()
    parameters = [p for p in model.parameters() if p.numel()]
    expected = torch.cat([p.grad.double().flatten() for p in parameters]).norm()
    assert float(gradient_norm(parameters)) == pytest.approx(float(expected), rel=1e-6)


def test_the_first_step_of_each() -> None:
    model, ids = random_model(), random_ids(4, 20)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.token_losses(ids[:, :-1], ids[:, 1:]).mean().backward()
    for optimizer in build_optimizers(model, OptimConfig(matrix_lr=0.02, embedding_lr=0.2)):
        optimizer.step()
    moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    # AdamW's first step goes by its rate against the sign of the gradient; tokens not seen stay where they are.
    seen = torch.zeros(128, dtype=torch.bool).index_fill_(0, ids[:, :-1].flatten(), True)
    rate, sign = 0.2 * (32 / 768) ** -0.5, model.embedding.weight.grad.sign()
    torch.testing.assert_close(moved["embedding.weight"], -rate * sign, atol=1e-3 * rate, rtol=0)
    assert not moved["embedding.weight"][~seen].any() and seen.sum() < 128
    # Muon's step has singular values near its rate (but for the least of them), whatever the gradient's were.
    update, gradient = moved["blocks.1.attention.out.weight"], model.blocks[1].attention.out.weight.grad
    values = torch.linalg.svdvals(update)[:-2] / 0.02
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.linalg.svdvals(gradient)[0] > 10 * torch.linalg.svdvals(gradient)[-3]
    assert (update * gradient).sum() < 0
