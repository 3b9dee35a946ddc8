"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) over many tensors at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    *,
    count: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Apply step number `count` (1-based) in place; `exp_avgs` and `exp_avg_sqs` are the two moments."""
    if not params:
        return
    # `torch.full` on the device: `torch.tensor` would copy from the host and wait.
    counts = [torch.full((), float(count), device=p.device) for p in params]
    # `torch.optim` calls the same function; importing it takes two seconds (`muon.py`).
    torch._fused_adamw_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        list(params), list(grads), list(exp_avgs), list(exp_avg_sqs), [], counts,
        lr=lr, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay, eps=eps, amsgrad=False, maximize=False,
    )  # fmt: skip
