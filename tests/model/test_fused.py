"""The fused functions against the plain operations that they stand for: values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aquarat_core.model import fused
from aquarat_core.model.transformer import attend, norm, rope_and_norm, rotary_table
from tests.factories import random_ids, random_model
from tests.model.test_transformer import MODERN


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    return lambda on: monkeypatch.setattr(fused, "enabled", not on)


def random(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(shapes))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def gradients(f: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The value of f and its gradients for one fixed direction."""
    out = f(*inputs)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, list(inputs), direction)]


def assert_same(a: list[Tensor], b: list[Tensor], atol: float) -> None:
    for mine, theirs in zip(a, b, strict=True):
        assert mine.dtype == theirs.dtype and theirs.abs().max() > 0.1
        torch.testing.assert_close(mine, theirs, atol=atol, rtol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_norm_and_position(dtype: torch.dtype, atol: float, plain: Callable[[bool], None]) -> None:
    (x,) = random((2, 10, 4, 16), dtype=dtype)
    cos, sin = (table[None, :, None].to(dtype) for table in rotary_table(10, 16, 100.0))

    def both() -> list[list[Tensor]]:
        return [gradients(norm, [x]), gradients(lambda x: rope_and_norm(x, cos, sin, 1.2), [x])]

    ours = both()
    plain(True)
    for mine, theirs in zip(ours, both(), strict=True):
        assert_same(mine, theirs, atol)
    assert float(ours[1][0].float().square().mean()) == pytest.approx(1.2**2, rel=0.01)


def test_squared_relu() -> None:
    inputs = random((3, 5, 8), (32, 8), (8, 32))
    assert_same(
        gradients(fused.squared_relu_mlp, inputs),
        gradients(lambda x, up, down: F.relu(x @ up.T).square() @ down.T, inputs),
        1e-4,
    )


@pytest.mark.parametrize("window", [300, 100, 7])
@pytest.mark.parametrize("n_kv", [4, 2])
def test_attention_by_blocks(window: int, n_kv: int, plain: Callable[[bool], None]) -> None:
    """Three blocks, the last of them not full."""
    inputs = random((2, 4, 300, 8), (2, n_kv, 300, 8), (2, n_kv, 300, 8))
    ours = gradients(lambda q, k, v: attend(q, k, v, window), inputs)
    plain(True)
    assert_same(ours, gradients(lambda q, k, v: attend(q, k, v, window), inputs), 1e-4)


def cross_entropy_as_defined(hidden: Tensor, head: Tensor, targets: Tensor, V: int, cap: float) -> Tensor:
    logits = cap * torch.tanh((hidden.double() @ head.double().T)[:, :V] / cap)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")


def test_cross_entropy_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices and passes that do not divide the tokens; padding rows in the head; targets without loss."""
    monkeypatch.setattr(fused, "LOGIT_ROWS", 16)
    monkeypatch.setattr(fused, "CACHED_VALUES", 3 * 128)
    hidden, head = random((50, 8), (128, 8))
    targets = torch.randint(100, (50,), generator=torch.Generator().manual_seed(1))
    targets[::7] = -1
    exact = cross_entropy_as_defined(hidden, head, targets, 100, 5.0)
    assert (targets >= 0).sum() == 42 and exact[targets >= 0].min() > 0
    torch.testing.assert_close(fused.cross_entropies(hidden, head, targets, 100, 5.0), exact.float(), atol=1e-5, rtol=0)
    total = fused.cross_entropy_sum(hidden, head, targets, 100, 5.0)
    assert float(total.detach()) == pytest.approx(float(exact.sum()), rel=1e-6)
    expected = torch.autograd.grad(exact.sum() / 42, [hidden, head])
    for mine, theirs in zip(torch.autograd.grad(total / 42, [hidden, head]), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)
    assert not expected[1][100:].any()


def test_logits_at_the_cap_keep_their_loss_finite() -> None:
    hidden, head = torch.full((2, 4), 100.0), torch.eye(64, 4) * 100
    losses = fused.cross_entropies(hidden, head, torch.tensor([0, 63]), 64, 15.0)
    assert losses.tolist() == pytest.approx([math.log(4 + 60 * math.exp(-15)), 15 + math.log(4)], rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"embedding_taps": 2}, MODERN | {"window_pattern": "SL"}])
def test_a_whole_model(options: dict, plain: Callable[[bool], None]) -> None:
    model, ids = random_model(**{"n_kv_head": 2} | options), random_ids(2, 65)

    def measured() -> list[Tensor]:
        loss = model.loss_sum(ids[:, :-1], ids[:, 1:]) / 128
        used = [p for p in model.parameters() if p.numel()]
        return [loss.detach(), *torch.autograd.grad(loss, used)]

    ours = measured()
    plain(True)
    for mine, theirs in zip(ours, measured(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-3)
    assert float(ours[0]) == pytest.approx(float(model.token_losses(ids[:, :-1], ids[:, 1:]).mean()), rel=1e-5)


def test_no_logits_of_the_whole_batch_are_held() -> None:
    """The largest tensor made is a slice's, not [tokens, vocabulary]."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes = [t.numel() for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor)]
            largest[0] = max(largest[0], *sizes, 0)
            return out

    hidden, head = random((4096, 8), (2048, 8))
    targets = torch.zeros(4096, dtype=torch.long)
    with Watch():
        fused.cross_entropy_sum(hidden, head, targets, 2048, 15.0).backward()
    assert largest[0] == fused.LOGIT_ROWS * 2048 < hidden.shape[0] * 2048 / 4
