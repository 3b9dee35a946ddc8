"""Products in 8-bit floats: as exact as the formats allow, forward and backward, and refused where they cannot be had.

The CPU's `torch._scaled_mm` multiplies the same formats as a GPU's tensor cores.
"""

from __future__ import annotations

import pytest
import torch

from aquarat_core.config import ConfigError, LaunchConfig
from aquarat_core.model import float8, fused
from aquarat_core.runtime.distributed import World
from aquarat_core.training.loss import candidates
from tests.factories import CPU, random_ids, random_model

E4M3, E5M2 = 2.0**-4, 2.0**-3
"""Largest relative error of rounding: half of the last bit of 3 and of 2 bits of mantissa."""
SUBNORMAL_E4M3, SUBNORMAL_E5M2 = 2.0**-10 / 448, 2.0**-17 / 57344
"""Largest absolute error below the smallest normal number, as a share of the tensor's largest magnitude."""


def rounded(x: torch.Tensor, format_: torch.dtype) -> torch.Tensor:
    x8, factor = float8._rounded(x, format_)
    assert x8.dtype == format_ and factor.dtype == torch.float32
    return x8.double() * factor.double()


@pytest.mark.parametrize(
    ("format_", "relative", "absolute"),
    [(torch.float8_e4m3fn, E4M3, SUBNORMAL_E4M3), (torch.float8_e5m2, E5M2, SUBNORMAL_E5M2)],
)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
def test_rounding_is_within_the_format_whatever_the_scale(format_, relative, absolute, scale) -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).pow(3) * scale
    error = (rounded(x, format_) - x.double()).abs()
    assert bool((error <= x.double().abs() * relative * 1.001 + absolute * x.abs().max()).all())
    assert float(error.max()) > 0
    assert bool((rounded(torch.zeros(16, 16), format_) == 0).all())


def test_a_product_and_its_gradients_are_those_of_the_rounded_factors() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 16, 128, generator=generator).requires_grad_()
    weight = (torch.randn(192, 128, generator=generator) * 0.05).requires_grad_()
    dy = torch.randn(2, 16, 192, generator=generator) * 1e-5
    y = float8.linear(x, weight)
    dx, dw = torch.autograd.grad(y, (x, weight), dy)
    assert (y.shape, dx.shape, dw.shape) == ((2, 16, 192), x.shape, weight.shape)
    x8, w8 = (rounded(factor.detach(), float8.FORWARD) for factor in (x, weight))
    d8 = rounded(dy, float8.GRADIENT)
    for mine, theirs in (
        (y, x8 @ w8.T),
        (dx, d8 @ w8),
        (dw, d8.flatten(0, 1).T @ x8.flatten(0, 1)),
    ):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    exact = x.detach() @ weight.detach().T
    error = float((y.detach() - exact).norm() / exact.norm())
    assert 1e-3 < error < 0.06


def test_a_model_trains_with_it_near_the_loss_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(depth=2, width_per_layer=64, head_size=32)
    ids = random_ids(2, 65)
    expected = float(model.loss_sum(ids[:, :-1], ids[:, 1:]).detach()) / 128
    model.set_kernels("sdpa", float8_products=True)
    used = [name for name, m in model.named_modules() if getattr(m, "float8", False)]
    names = ("attention.q", "attention.k", "attention.v", "attention.out", "mlp.up", "mlp.down")
    assert used == [f"blocks.{i}.{name}" for i in range(2) for name in names]
    calls = []
    product = float8.linear
    monkeypatch.setattr(float8, "linear", lambda x, w: calls.append(tuple(w.shape)) or product(x, w))
    loss = model.loss_sum(ids[:, :-1], ids[:, 1:]) / 128
    loss.backward()
    assert len(calls) == 12
    assert float(loss) != expected and float(loss) == pytest.approx(expected, rel=0.02)
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.numel())
    with torch.no_grad():  # nothing of it where no gradient is asked for
        assert float(model.token_losses(ids[:, :-1], ids[:, 1:]).mean()) == pytest.approx(expected, rel=1e-5)
    assert len(calls) == 12
    model.set_kernels("sdpa")
    assert not any(getattr(m, "float8", False) for m in model.modules())


def test_small_matrices_stay_as_they_are() -> None:
    assert float8.fits(torch.empty(128, 512))
    assert not float8.fits(torch.empty(64, 512))
    assert not float8.fits(torch.empty(512, 136))


def test_it_is_refused_where_the_hardware_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    model, launch = random_model().config, LaunchConfig(float8=True)
    with pytest.raises(ConfigError, match=r"launch.float8 needs a GPU that multiplies 8-bit floats, but this is cpu"):
        candidates(model, launch, World(0, 1, CPU, torch.float32))
    gpu = World(0, 1, torch.device("cuda"), torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ConfigError, match=r"but this GPU has compute capability 8\.0: set it to false"):
        candidates(model, launch, gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert candidates(model, launch, gpu)
    odd = random_model(sequence_len=40).config
    with pytest.raises(ConfigError, match="sequence_len 40 is not a multiple"):
        candidates(odd, launch, gpu)


def test_on_a_cpu_the_fused_mlp_gives_way() -> None:
    assert fused.enabled
    model = random_model(depth=2, width_per_layer=64, head_size=32)
    x = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(2))
    plain = model.blocks[0].mlp(x)
    model.set_kernels("sdpa", float8_products=True)
    assert not torch.equal(model.blocks[0].mlp(x), plain)
