"""Muon for the matrices inside the blocks, AdamW for the embedding and the head.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) orthogonalises the momentum of a matrix; it is torch's own
`torch.optim.Muon`. Embedding and head are lookups and classifiers rather than maps between hidden states, where Adam is
the better choice; their rates shrink with the square root of the width.
"""

from __future__ import annotations

import torch
from torch.optim import AdamW, Muon, Optimizer

from aquarat_core.config import OptimConfig
from aquarat_core.model.transformer import Transformer

REFERENCE_WIDTH = 768
"""Width at which the AdamW rates are given."""


def build_optimizers(model: Transformer, config: OptimConfig) -> list[Optimizer]:
    """Optimizers that together own every parameter exactly once; each group carries its peak rate as `peak_lr`."""
    matrices = list(model.blocks.parameters())
    embedding, head, taps = list(model.embedding.parameters()), list(model.head.parameters()), [model.taps]
    owned = [id(p) for group in (matrices, embedding, head, taps) for p in group]
    assert sorted(owned) == sorted(id(p) for p in model.parameters()), "the groups must partition the parameters"

    width_scale = (model.config.dim / REFERENCE_WIDTH) ** -0.5
    muon = Muon(matrices, lr=config.matrix_lr * config.lr_scale, momentum=0.95, weight_decay=config.weight_decay)
    adam = AdamW(
        [
            {"params": embedding, "lr": config.embedding_lr * config.lr_scale * width_scale},
            {"params": head, "lr": config.unembedding_lr * config.lr_scale * width_scale},
            {"params": taps, "lr": config.unembedding_lr * config.lr_scale * width_scale},
        ],
        betas=(0.8, 0.95),
        eps=1e-10,
        weight_decay=0.0,
    )
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return [muon, adam]


def set_lr(optimizers: list[Optimizer], factor: float) -> None:
    """Set every group to `factor` times its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def gradient_norm(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    """Euclidean norm over all gradients as one float32 scalar."""
    norms = torch._foreach_norm([p.grad for p in parameters])
    return torch.linalg.vector_norm(torch.stack(norms))
