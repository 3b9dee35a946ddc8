"""Causal attention, full or to a window of tokens, with the fastest kernel available.

- `sdpa`: torch's `scaled_dot_product_attention`. Full attention uses its flash kernel, windowed attention a mask.
- `flex`: FlexAttention (Dong et al. 2024, arXiv 2412.05496), for windows: the compiler generates a kernel that skips
  blocks of keys outside the window. In deterministic runs it also computes full attention: the backward pass of torch's
  own kernel is then slower, and attention takes half as long again. Outside compiled code, `flex` falls back to `sdpa`.
- `fa3`: FlashAttention-3 (Shah et al. 2024, arXiv 2407.08608), for Hopper GPUs; its package is optional.

On CPUs, short rows use the function in `fused.py` with every backend. All backends give the same values up to rounding
(tests compare them); `training.loss` chooses one.

Shapes as in `transformer.py`: B rows, T tokens, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from aquarat_core.config.accounting import MAX_SAVED_ATTENTION
from aquarat_core.model import fused

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Backend = Literal["sdpa", "flex", "fa3"]

FA3_MODULES = ("flash_attn_interface", "flash_attn_3.flash_attn_interface")
"""Modules in which builds of FlashAttention-3 have `flash_attn_func`; `flash_attn` is version 2."""
FA3_MAX_HEAD_SIZE, FA3_HEAD_SIZE_MULTIPLE = 256, 8
HOPPER = 9
"""Major compute capability."""

_flash_attn_func: Callable[..., Tensor] | None = None


def attend(
    q_BHTD: Tensor,
    k_BKTD: Tensor,
    v_BKTD: Tensor,
    window: int,
    backend: Backend = "sdpa",
    blocks: BlockMask | None = None,
) -> Tensor:
    """Causal attention [B, H, T, D] of T queries to T keys, each to the last `window` tokens, including its own.

    `flex` needs `blocks`, the `block_mask` of T and `window`.
    """
    T, groups = q_BHTD.size(2), q_BHTD.size(1) // k_BKTD.size(1)
    if fused.applies(q_BHTD) and T <= MAX_SAVED_ATTENTION:
        return fused.causal_attention(q_BHTD, *_for_every_query_head(k_BKTD, v_BKTD, groups), window)
    if backend == "fa3" and q_BHTD.dtype == torch.bfloat16:
        return _flash_attention_3(q_BHTD, k_BKTD, v_BKTD, window)
    if backend == "flex" and blocks is not None and blocks.shape[-1] == T and torch.compiler.is_compiling():
        return _flex_attention(q_BHTD, k_BKTD, v_BKTD, blocks)
    if window >= T:
        return F.scaled_dot_product_attention(q_BHTD, k_BKTD, v_BKTD, is_causal=True, enable_gqa=groups > 1)
    # With a mask, only slow kernels support grouped heads.
    k_BHTD, v_BHTD = _for_every_query_head(k_BKTD, v_BKTD, groups)
    return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=_seen(T, window, q_BHTD.device))


def unavailable(backend: Backend, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """Why `backend` does not support heads of this size and type on `device`; None if it does."""
    if backend == "sdpa":
        return None
    if device.type != "cuda":
        return f"it needs a GPU, but this is {device.type}"
    if backend == "flex":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    if major != HOPPER:
        return f"it is made for Hopper (compute capability 9), but this GPU has {major}.{minor}"
    if dtype != torch.bfloat16:
        return f"it computes in bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if head_size > FA3_MAX_HEAD_SIZE or head_size % FA3_HEAD_SIZE_MULTIPLE:
        return f"head_size {head_size} is not a multiple of {FA3_HEAD_SIZE_MULTIPLE} up to {FA3_MAX_HEAD_SIZE}"
    if find_flash_attention_3() is None:
        return f"none of its modules ({', '.join(FA3_MODULES)}) can be imported"
    return None


def find_flash_attention_3() -> Callable[..., Tensor] | None:
    """The package's `flash_attn_func`, or None if the package is not installed or does not load.

    The function is kept for `attend`: compiled code cannot import.
    """
    global _flash_attn_func
    for module in FA3_MODULES if _flash_attn_func is None else ():
        try:
            _flash_attn_func = importlib.import_module(module).flash_attn_func
            break
        except (ImportError, OSError, AttributeError):
            continue
    return _flash_attn_func


@functools.lru_cache(maxsize=16)
def block_mask(T: int, window: int, device: torch.device) -> BlockMask:
    """Which blocks of keys FlexAttention visits for each block of T queries that attend to `window` tokens each."""
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    return create_block_mask(seen, None, None, T, T, device=device)


def _flex_attention(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, blocks: BlockMask) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    out = flex_attention(q_BHTD, k_BKTD, v_BKTD, block_mask=blocks, enable_gqa=q_BHTD.size(1) != k_BKTD.size(1))
    assert isinstance(out, Tensor)
    return out


def _flash_attention_3(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, window: int) -> Tensor:
    """The package takes [B, T, H, D], and the number of tokens before the query that it attends to; -1 means all."""
    assert _flash_attn_func is not None, "call `unavailable` first"
    q, k, v = (x.transpose(1, 2) for x in (q_BHTD, k_BKTD, v_BKTD))
    window_size = (window - 1, 0) if window < q_BHTD.size(2) else (-1, -1)
    return _flash_attn_func(q, k, v, causal=True, window_size=window_size).transpose(1, 2)


def _for_every_query_head(k_BKTD: Tensor, v_BKTD: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    if groups == 1:
        return k_BKTD, v_BKTD
    return k_BKTD.repeat_interleave(groups, dim=1), v_BKTD.repeat_interleave(groups, dim=1)


def _seen(T: int, window: int, device: torch.device) -> Tensor:
    """[queries, keys]: whether the query may attend to the key."""
    at = torch.arange(T, device=device)
    distance = at[:, None] - at
    return (distance >= 0) & (distance < window)
