"""Muon: the momentum of a matrix, orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

The variant, and why: Polar Express (Amsel et al. 2025, arXiv 2505.16932) in place of the quintic of the original, since
five of its steps bring every singular value above a thousandth of the largest to 0.86-1.14, where the original leaves
0.68-1.13 above three thousandths; NorMuon (Li et al. 2025, 2510.05491), which evens out the rows of the result by their
mean square over time, at the cost of one number a row; cautious weight decay (Chen et al. 2025, 2510.12402), which
shrinks a weight only where the update does not grow it. `torch.optim.Muon` has none of the three, and importing
`torch.optim` costs every start of a stage two seconds.

Matrices are [M, N], M outputs; equal shapes are orthogonalised in one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients of x, x^3 and x^5 of each step, from the paper's code, for five steps and a safety factor of 1.02."""
SAFETY = 1.02
EPS = 1e-10


def orthogonalise(x: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, about, to a batch [..., M, N], in the type of `x`."""
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * SAFETY + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def evened(update: Tensor, second: Tensor, beta2: float) -> Tensor:
    """`update` [M, N] with its rows scaled by the inverse root of their mean squares' average `second` [M, 1].

    The norm of the whole stays what it was. `second` is updated in place; like Adam's, but not corrected for its start,
    which the rescaling cancels.
    """
    second.lerp_(update.square().mean(dim=-1, keepdim=True), 1 - beta2)
    scaled = update * second.clamp_min(EPS).rsqrt()
    return scaled * (update.norm() / scaled.norm().clamp_min(EPS))


def step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    seconds: Sequence[Tensor],
    *,
    lr: float,
    momentum: float,
    beta2: float | None,
    weight_decay: float,
    dtype: torch.dtype = torch.float32,
) -> None:
    """One step, in place, orthogonalising in `dtype`: bfloat16 is enough where the hardware is fast in it.

    Nesterov momentum; wide matrices move by `lr`, tall ones by `lr` sqrt(M / N) a direction."""
    torch._foreach_lerp_(list(momenta), list(grads), 1 - momentum)
    ahead = torch._foreach_lerp(list(grads), list(momenta), momentum)
    shapes: dict[torch.Size, list[int]] = defaultdict(list)
    for i, p in enumerate(params):
        shapes[p.shape].append(i)
    for shape, members in shapes.items():
        batch = orthogonalise(torch.stack([ahead[i] for i in members]).to(dtype)).float()
        rate = lr * max(1.0, shape[0] / shape[1]) ** 0.5
        for i, update in zip(members, batch, strict=True):
            if beta2 is not None:
                update = evened(update, seconds[i], beta2)
            if weight_decay:
                grows_not = (update * params[i] >= 0).to(update.dtype)
                update = update + weight_decay * params[i] * grows_not
            params[i].sub_(update, alpha=rate)
