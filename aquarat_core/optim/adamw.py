"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) over many tensors at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    firsts: Sequence[Tensor],
    seconds: Sequence[Tensor],
    *,
    count: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Step number `count`, from 1, in place; `firsts` and `seconds` are the running means of gradients and squares."""
    if not params:
        return
    # Filled on the device: a tensor made of a number is copied there, and the host waits.
    counts = [torch.full((), float(count), device=p.device) for p in params]
    torch._fused_adamw_(
        list(params), list(grads), list(firsts), list(seconds), [], counts,
        lr=lr, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay, eps=eps, amsgrad=False, maximize=False,
    )  # fmt: skip
