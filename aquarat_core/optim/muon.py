"""Muon: momentum, orthogonalized for each matrix (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

This variant differs from the original in three ways. Polar Express (Amsel et al. 2025, arXiv 2505.16932) replaces the
quintic iteration: five steps bring every singular value above a thousandth of the largest to 0.86-1.14, compared with
0.68-1.13 above three thousandths. NorMuon (Li et al. 2025, 2510.05491) normalizes the rows of the result by their mean
square over time, at the cost of one number per row. Cautious weight decay (Chen et al. 2025, 2510.12402) shrinks a
weight only if the update does not increase its magnitude. `torch.optim.Muon` has none of the three, and importing
`torch.optim` adds two seconds to the start of every stage.

Matrices are [M, N] with M outputs; matrices of equal shape are orthogonalized in one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from aquarat_core.model.typed_torch import vector_norm

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients of x, x^3 and x^5 in each step, from the paper's code, for five steps and a safety factor of 1.02."""
SAFETY = 1.02
EPS = 1e-10


def orthogonalize(x: Tensor) -> Tensor:
    """Approximations of the nearest matrices with orthonormal rows or columns to `x` [..., M, N], in its type."""
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (vector_norm(x, dim=(-2, -1), keepdim=True) * SAFETY + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def normuon_normalize(update: Tensor, exp_avg_sq: Tensor, beta2: float) -> Tensor:
    """`update` [M, N] with each row divided by the root of `exp_avg_sq` [M, 1], the running mean of its mean square.

    The result has the norm of `update`. `exp_avg_sq` is updated in place, as in Adam but without bias correction, which
    the rescaling would cancel.
    """
    exp_avg_sq.lerp_(update.square().mean(dim=-1, keepdim=True), 1 - beta2)
    scaled = update * exp_avg_sq.clamp_min(EPS).rsqrt()
    return scaled * (vector_norm(update) / vector_norm(scaled).clamp_min(EPS))


def step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    *,
    lr: float,
    momentum: float,
    beta2: float | None,
    weight_decay: float,
    dtype: torch.dtype = torch.float32,
) -> None:
    """One step in place with Nesterov momentum, orthogonalizing in `dtype`: bfloat16 is precise enough.

    The singular values of an update are about `lr` for wide matrices and `lr` sqrt(M / N) for tall ones.
    """
    # One call for all tensors; torch has no public function for that.
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        list(momenta), list(grads), 1 - momentum
    )
    ahead = torch._foreach_lerp(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        list(grads), list(momenta), momentum
    )
    shapes: dict[torch.Size, list[int]] = defaultdict(list)
    for i, p in enumerate(params):
        shapes[p.shape].append(i)
    for shape, members in shapes.items():
        batch = orthogonalize(torch.stack([ahead[i] for i in members]).to(dtype)).float()
        rate = lr * max(1.0, shape[0] / shape[1]) ** 0.5
        for i, update in zip(members, batch, strict=True):
            if beta2 is not None:
                update = normuon_normalize(update, exp_avg_sqs[i], beta2)
            if weight_decay:
                cautious_mask = (update * params[i] >= 0).to(update.dtype)
                update = update + weight_decay * params[i] * cautious_mask
            params[i].sub_(update, alpha=rate)
