"""One step of each optimizer, against what it is defined to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aquarat_core.optim import adamw, muon


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 128, 32), (2, 32, 128)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = matrix(*shape)
    x[0] *= 1e-4
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    values = torch.linalg.svdvals(muon.orthogonalize(x.to(dtype)).float())
    # Below a thousandth of the norm, a direction may fall short: a square matrix has such.
    telling = s / s.norm(dim=-1, keepdim=True) > 2e-3
    assert telling.float().mean() > 0.97
    assert values[telling].min() > 0.8 and values.max() < 1.2
    # It keeps the singular vectors: the result is near u vh.
    assert float((muon.orthogonalize(x.to(dtype)).float() * (u @ vh)).sum() / (u @ vh).square().sum()) > 0.9


def test_rows_are_evened_and_the_norm_is_kept() -> None:
    update = matrix(8, 16)
    update[0] *= 10
    second = torch.zeros(8, 1)
    even = muon.normuon_normalize(update, second, beta2=0.9)
    torch.testing.assert_close(second, 0.1 * update.square().mean(1, keepdim=True))
    assert float(even.norm()) == pytest.approx(float(update.norm()), rel=1e-5)
    rows = even.norm(dim=1)
    assert float(rows.max() / rows.min()) == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(even[0] / even[0].norm(), update[0] / update[0].norm())


def stepped(p: Tensor, g: Tensor, **settings: float) -> tuple[Tensor, Tensor]:
    """The change of `p` and the momentum after one step."""
    param, first, second = p.clone(), torch.zeros_like(p), torch.zeros(len(p), 1)
    settings = {"lr": 0.02, "momentum": 0.9, "beta2": 0.9, "weight_decay": 0.0} | settings
    muon.step([param], [g], [first], [second], **settings)
    return param - p, first


def test_a_step_of_muon() -> None:
    p, g = matrix(16, 16, seed=1), matrix(16, 16, seed=2)
    moved, first = stepped(p, g)
    torch.testing.assert_close(first, 0.1 * g)
    # Whatever the gradient's size, the step has the norm of an orthogonal matrix times the rate, against the gradient.
    assert float(moved.norm()) == pytest.approx(0.02 * 4, rel=0.08)
    assert float((moved * g).sum()) < 0
    torch.testing.assert_close(stepped(p, 1024 * g)[0], moved, atol=1e-4, rtol=0)
    # Tall matrices move further in each direction.
    tall, _ = stepped(matrix(64, 16), matrix(64, 16, seed=3))
    assert float(tall.norm()) == pytest.approx(0.02 * 2 * 4, rel=0.08)


def test_decay_is_cautious() -> None:
    p, g = matrix(16, 16, seed=1), matrix(16, 16, seed=2)
    plain, _ = stepped(p, g)
    decayed, _ = stepped(p, g, weight_decay=0.1)
    shrinking, clear = (plain * p) < 0, (plain * p).abs() > 1e-6
    torch.testing.assert_close(
        decayed[shrinking & clear], (plain - 0.02 * 0.1 * p)[shrinking & clear], atol=1e-6, rtol=0
    )
    growing = ~shrinking & clear
    torch.testing.assert_close(decayed[growing], plain[growing], atol=1e-6, rtol=0)
    assert 0.2 < shrinking.float().mean() < 0.8


def test_equal_shapes_in_a_batch_are_stepped_as_if_alone() -> None:
    params = [matrix(8, 8, seed=i) for i in range(2)] + [matrix(8, 4)]
    grads = [matrix(8, 8, seed=5 + i) for i in range(2)] + [matrix(8, 4, seed=8)]
    alone = [p + stepped(p, g)[0] for p, g in zip(params, grads, strict=True)]
    momenta, exp_avg_sqs = [torch.zeros_like(p) for p in params], [torch.zeros(len(p), 1) for p in params]
    muon.step(params, grads, momenta, exp_avg_sqs, lr=0.02, momentum=0.9, beta2=0.9, weight_decay=0.0)
    for mine, theirs in zip(params, alone, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=0)


def test_adamw_by_hand() -> None:
    p, m, v = torch.tensor([1.0, -2.0, 0.5]), torch.zeros(3), torch.zeros(3)
    expected, m_, v_ = p.double(), m.double(), v.double()
    for count in (1, 2, 3):
        g = torch.tensor([0.1, -0.3, 0.0]) * count
        adamw.step([p], [g], [m], [v], count=count, lr=0.1, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.01)
        m_, v_ = 0.8 * m_ + 0.2 * g, 0.95 * v_ + 0.05 * g**2
        expected = expected * (1 - 0.1 * 0.01)
        expected -= 0.1 * (m_ / (1 - 0.8**count)) / ((v_ / (1 - 0.95**count)).sqrt() + 1e-8)
    torch.testing.assert_close(p, expected.float(), atol=1e-6, rtol=0)
    adamw.step([], [], [], [], count=1, lr=0.1, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.0)
