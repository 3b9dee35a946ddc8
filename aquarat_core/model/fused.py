"""Forward and backward passes written for CPUs: they make few passes over memory, mostly over data in the cache.

torch's CPU kernels run one elementwise operation at a time, and autograd saves and revisits every intermediate value.
These functions give the same values as the eager operations of `transformer.py` (tests compare them) but save only what
the formulas need: an RMS norm saves its output, attention skips the masked half, and the cross-entropy computes its
gradient slice by slice along with the logits (as in Hsu et al. 2024, "Liger Kernel", arXiv 2410.10989), so that no
[B, T, V] tensor is ever in memory. On GPUs `torch.compile` fuses the eager operations instead.

Shapes as in `transformer.py`; N = B x T.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from aquarat_core.model.typed_torch import vector_norm

ATTENTION_BLOCK = 128
"""Queries at a time; keys after the end of the block are skipped."""
LOGIT_ROWS = 512
"""Tokens whose logits are in memory at once."""
CACHED_VALUES = 1 << 18
"""float32 values that one elementwise pass covers before the next one: a megabyte, which fits in a cache. With fewer,
the overhead of calls dominates."""

enabled = True
"""Tests set this to False to compare with the eager operations."""
NORM_EPS = torch.finfo(torch.float32).eps
"""Added to the mean square, as in the eager operations."""


def applies(x: Tensor) -> bool:
    """Whether to use these functions for `x`; the compiler does its own fusion."""
    return enabled and x.is_cpu and not torch.compiler.is_compiling()


# torch calls each `backward` with one gradient for each output; its stub has `*grad_outputs` there.
class _RMSNorm(Function):
    """y = x s with s = sqrt(C) / |x|; dx = s (dy - y mean(dy y)). Saves y and s, not x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, s = _normalized(x)
        ctx.save_for_backward(y, s.to(x.dtype))
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, s = ctx.saved_tensors
        mean = (dy * y).mean(dim=-1, keepdim=True)
        return torch.addcmul(dy, y, mean, value=-1).mul_(s)


def _normalized(x: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """x s in the type of `x`, rounded once, and the float32 factors s = scale / rms(x) [..., 1]."""
    wide = x.float()
    squares = vector_norm(wide, dim=-1, keepdim=True).square_()
    s = squares.div_(x.size(-1)).add_(NORM_EPS).rsqrt_()
    if scale != 1.0:
        s.mul_(scale)
    return wide * s if x.dtype == torch.float32 else wide.mul_(s).to(x.dtype), s


def rms_norm(x: Tensor) -> Tensor:
    """RMS normalization over the last dimension."""
    return _RMSNorm.apply(x) if torch.is_grad_enabled() else _normalized(x)[0]


class _RotaryNorm(Function):
    """Rotation of feature pairs after normalization; rotation preserves norms, so the order does not matter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
        x, s = _normalized(x, scale)
        y = _rotated(x, cos, sin)
        ctx.save_for_backward(y, s.to(x.dtype), cos, sin)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, s, cos, sin = ctx.saved_tensors
        mean = (dy * y).mean(dim=-1, keepdim=True).div_(ctx.scale**2)
        return _rotated(torch.addcmul(dy, y, mean, value=-1).mul_(s), cos, -sin), None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.size(-1) // 2
    out = x * torch.cat((cos, cos), dim=-1)
    out[..., :half].addcmul_(x[..., half:], sin)
    out[..., half:].addcmul_(x[..., :half], sin, value=-1)
    return out


def rotary_norm(x_BTHD: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
    """scale x norm(rotate(x)), `cos` and `sin` broadcasting to [B, T, 1, D/2]."""
    if not torch.is_grad_enabled():  # fewer operations than `_rotated`
        x1, x2 = _normalized(x_BTHD, scale)[0].chunk(2, dim=-1)
        y1, y2 = torch.addcmul(x1 * cos, x2, sin), torch.addcmul(x2 * cos, x1, sin, value=-1)
        return torch.cat((y1, y2), dim=-1)
    return _RotaryNorm.apply(x_BTHD, cos, sin, scale)


class _SquaredReLU(Function):
    """down(relu(up(x))^2). Saves relu(up(x)) and its square, which would take as long as a product to recompute."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        r = torch.mm(x, up.T).relu_()
        square = r * r
        ctx.save_for_backward(x, r, square, up, down)
        return torch.mm(square, down.T)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, r, square, up, down = ctx.saved_tensors
        d_down = torch.mm(dy.T, square)
        dr = torch.mm(dy, down).mul_(r)
        return torch.mm(dr, up).mul_(2), torch.mm(dr.T, x).mul_(2), d_down


def squared_relu_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """[..., C] through both matrices of the MLP, given in the type of `x`."""
    return _SquaredReLU.apply(x.flatten(0, -2), up, down).view_as(x)


class _CausalAttention(Function):
    """softmax(q k^T / sqrt(D)) v by blocks of queries. Saves the probabilities, so `attend` limits the row length."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        q = q * q.size(2) ** -0.5
        out = torch.empty_like(q)
        kept: list[Tensor] = []
        for start, end, first in _blocks(q.size(1), window):
            scores = torch.bmm(q[:, start:end], k[:, first:end].transpose(1, 2))
            # If no key is outside the window, all keys before the block are visible.
            masked = first if window < end else start
            scores[..., masked - first :].masked_fill_(_hidden_keys(start, end, masked, window), -math.inf)
            p = torch.softmax(scores, dim=-1)
            torch.bmm(p, v[:, first:end], out=out[:, start:end])
            kept.append(p)
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.window = window
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, *kept = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, end, first), p in zip(_blocks(q.size(1), ctx.window), kept, strict=True):
            d = d_out[:, start:end]
            _add_bmm(dv[:, first:end], p.transpose(1, 2), d)
            mean = (d * out[:, start:end]).sum(dim=-1, keepdim=True)
            ds = torch.bmm(d, v[:, first:end].transpose(1, 2)).sub_(mean).mul_(p)
            torch.bmm(ds, k[:, first:end], out=dq[:, start:end])
            _add_bmm(dk[:, first:end], ds.transpose(1, 2), q[:, start:end])
        return dq.mul_(q.size(2) ** -0.5), dk, dv, None


def _add_bmm(total: Tensor, a: Tensor, b: Tensor) -> None:
    torch.baddbmm(total, a, b, out=total)


def _blocks(T: int, window: int) -> list[tuple[int, int, int]]:
    """Start and end of each block of queries, and the first key that is visible to any of them."""
    starts = range(0, T, ATTENTION_BLOCK)
    return [(start, min(start + ATTENTION_BLOCK, T), max(0, start - window + 1)) for start in starts]


@functools.lru_cache(maxsize=64)
def _hidden_keys(start: int, end: int, first: int, window: int) -> Tensor:
    """[queries, keys] of a block: True if the key is after the query or outside its window."""
    distance = torch.arange(start, end)[:, None] - torch.arange(first, end)
    return (distance < 0) | (distance >= window)


def causal_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, window: int) -> Tensor:
    """Causal attention [B, H, T, D] to the last `window` tokens, with as many key/value heads as query heads."""
    flat = (x.reshape(-1, *x.shape[2:]) for x in (q_BHTD, k_BHTD, v_BHTD))
    return _CausalAttention.apply(*flat, window).view(q_BHTD.shape)


class _CrossEntropySum(Function):
    """Sum of the losses of soft-capped logits; its gradient is computed slice by slice in the forward pass.

    The cap bounds the logits, so the exponentials cannot overflow and the maximum need not be subtracted.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, vocab_size: int, cap: float) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        d_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        of_slice, widened = torch.empty_like(head), torch.empty_like(d_head)
        for part, raw, losses in _slices(hidden, head, targets, vocab_size, cap, with_grad=True):
            total += losses.sum()
            torch.mm(raw, head, out=d_hidden[part])
            # Adding tensors of different types would allocate a copy each time.
            d_head += widened.copy_(torch.mm(raw.T, hidden[part], out=of_slice))
        ctx.save_for_backward(d_hidden, d_head)
        return total

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        d_hidden, d_head = ctx.saved_tensors
        return d_hidden * weight.to(d_hidden.dtype), (d_head * weight).to(d_hidden.dtype), None, None, None


def _slices(
    hidden: Tensor, head: Tensor, targets: Tensor, vocab_size: int, cap: float, with_grad: bool
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of the tokens, each with the gradient [n, V'] of its raw logits (if `with_grad`) and its losses [n].

    The next slice overwrites the gradient.
    """
    on_cpu = hidden.device.type == "cpu"
    few = max(1, CACHED_VALUES // len(head)) if on_cpu else LOGIT_ROWS
    t, e = (torch.empty((few, vocab_size), dtype=torch.float32, device=hidden.device) for _ in range(2))
    buffer = torch.empty((min(LOGIT_ROWS, len(hidden)), len(head)), dtype=hidden.dtype, device=hidden.device)
    counts = (targets >= 0).float()[:, None]
    at = targets.clamp(min=0)[:, None]
    for start in range(0, len(hidden), LOGIT_ROWS):
        part = slice(start, start + LOGIT_ROWS)
        raw = torch.mm(hidden[part], head.T, out=buffer[: len(at[part])])
        losses = torch.empty((len(raw), 1), dtype=torch.float32, device=hidden.device)
        for i in range(0, len(raw), few):
            rows = slice(start + i, start + min(i + few, len(raw)))
            n = rows.stop - rows.start
            _losses_of(raw[i : i + n], at[rows], counts[rows], losses[i : i + n], t[:n], e[:n], cap, with_grad)
        yield part, raw, losses.squeeze(1)


def _losses_of(
    raw: Tensor, at: Tensor, counts: Tensor, losses: Tensor, t: Tensor, e: Tensor, cap: float, with_grad: bool
) -> None:
    """Write the `losses` [n, 1] of `raw` logits [n, V'], and replace the logits by their gradient.

    `t` and `e` [n, V] are scratch buffers. `at` [n, 1] are the targets; `counts` is 1 for a target, 0 if it is ignored.
    """
    vocab_size = t.size(1)
    t.copy_(raw[:, :vocab_size]).mul_(1 / cap).tanh_()
    torch.mul(t, cap, out=e).exp_()
    total = e.sum(dim=-1, keepdim=True)
    torch.sub(total.log(), t.gather(1, at).mul_(cap), out=losses).mul_(counts)
    if not with_grad:
        return
    # An ignored target has a gradient of zero.
    e.mul_(total.reciprocal_().mul_(counts)).scatter_add_(1, at, -counts)
    raw[:, :vocab_size] = e.addcmul_(e, t.square_(), value=-1)
    raw[:, vocab_size:] = 0.0


def cross_entropy_sum(hidden: Tensor, head: Tensor, targets: Tensor, vocab_size: int, cap: float) -> Tensor:
    """Sum of losses in nats of hidden states [N, C] under softcap(hidden head^T); negative targets [N] are ignored."""
    return _CrossEntropySum.apply(hidden, head, targets, vocab_size, cap)


@torch.no_grad()
def cross_entropies(hidden: Tensor, head: Tensor, targets: Tensor, vocab_size: int, cap: float) -> Tensor:
    """Losses [N] in nats, without gradients; 0 for negative targets."""
    slices = _slices(hidden, head, targets, vocab_size, cap, with_grad=False)
    return torch.cat([losses for _, _, losses in slices])
