"""Matrix products in 8-bit floats with dynamic scaling, one scale for each tensor (Micikevicius et al. 2022, FP8
formats for deep learning, arXiv 2209.05433).

Activations and weights are e4m3, whose three bits of mantissa are more precise; gradients are e5m2, which has a wider
range. A scale maps the largest magnitude of its tensor to the format's largest number. Tensor cores from compute
capability 8.9 on multiply these types at twice the rate of bfloat16; sums are float32.

Only the matrices of the blocks use 8 bits. The head's product stays in the compute type: most of its gradient, being
probabilities, would underflow in e5m2 next to the largest entry, and its rounding errors would enter the loss directly.
Embeddings are looked up, not multiplied. Without gradients, that is in validation and sampling, this option changes
nothing. `torchao` has the same recipe, but it is a large dependency that is tied to particular releases of torch; the
primitive, `torch._scaled_mm`, is part of torch.

Shapes: N tokens, K inputs, M outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

FORWARD, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
"""Every side of a product must be a multiple of this."""
MIN_SIDE = 128
"""With a shorter side, rounding takes more time than the faster product saves."""
CAPABILITY = (8, 9)
TINY = 1e-12


def unavailable(device: torch.device) -> str | None:
    """Why `device` cannot multiply 8-bit floats; None if it can."""
    if device.type != "cuda":
        return f"this is {device.type}"
    capability = torch.cuda.get_device_capability(device)
    return None if capability >= CAPABILITY else f"this GPU has compute capability {capability[0]}.{capability[1]}"


def fits(weight: Tensor) -> bool:
    """Whether 8-bit products of a matrix [M, K] are possible and faster."""
    return all(side % MULTIPLE == 0 and side >= MIN_SIDE for side in weight.shape)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T, [..., M], in the type of `x` [..., K], from a master weight [M, K] of any type.

    The total number of tokens must be a multiple of `MULTIPLE`.
    """
    return _Product.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])


# torch calls `backward` with one gradient for each output; its stub has `*grad_outputs` there.
class _Product(Function):
    """y = x w^T; dx = dy w; dw = dy^T x. Saves the 8-bit x and w, one byte per value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        (x8, x_scale), (w8, w_scale) = _rounded(x, FORWARD), _rounded(weight, FORWARD)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.types = x.dtype, weight.dtype
        return _multiplied(x8, x_scale, w8.t(), w_scale, x.dtype, fast=_fast(x))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        of_x, of_weight = ctx.types
        d8, d_scale = _rounded(dy, GRADIENT)
        dx = _multiplied(d8, d_scale, _by_columns(w8), w_scale, of_x)
        dw = _multiplied(d8.t().contiguous(), d_scale, _by_columns(x8), x_scale, of_x)
        return dx, dw.to(of_weight)


def _multiplied(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, dtype: torch.dtype, fast: bool = False
) -> Tensor:
    """The product of two scaled 8-bit matrices, of which the second has contiguous columns."""
    # Private, but the primitive under all recipes for torch; the module's docstring says why none of them is used.
    return torch._scaled_mm(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        a, b, scale_a=a_scale, scale_b=b_scale, out_dtype=dtype, use_fast_accum=fast
    )


def _rounded(x: Tensor, format_: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` as 8-bit floats, contiguous, and the float32 factor [] that undoes the scaling."""
    largest = torch.finfo(format_).max
    scale = largest / x.abs().amax().float().clamp(min=TINY)
    return (x.float() * scale).clamp(-largest, largest).to(format_).contiguous(), scale.reciprocal()


def _by_columns(x: Tensor) -> Tensor:
    """The same matrix with contiguous columns, which the second factor must have."""
    return x.t().contiguous().t()


def _fast(x: Tensor) -> bool:
    """Sums of a forward product may skip promotion to float32: the error is smaller than that of e4m3 itself."""
    return x.device.type == "cuda"
