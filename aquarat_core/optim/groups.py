"""Which parameter is updated how: Muon for the matrices inside the blocks, AdamW for the rest.

Embedding and head are lookups and classifiers rather than maps between hidden states, where Adam is the better choice;
their rates shrink with the square root of the width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from aquarat_core.config import OptimConfig
from aquarat_core.model.transformer import Transformer

REFERENCE_WIDTH = 768
"""Width at which the AdamW rates are given."""
ADAM_EPS = 1e-10
LAMBDA_EPS = 1e-6
"""Of the numbers that scale the residual stream. At the first step, when no block adds to it yet, the norm before the
head undoes them: their gradient is rounding (1e-11 to 1e-8), which `ADAM_EPS` makes a whole step of, this way or that.
From the second step on gradients are a thousandth and more."""


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that are updated alike; `peak_lr` is scaled by the schedule."""

    name: str
    params: tuple[tuple[str, nn.Parameter], ...]
    peak_lr: float
    muon: bool = False
    betas: tuple[float, float] = (0.8, 0.95)
    eps: float = ADAM_EPS
    weight_decay: float = 0.0


def parameter_groups(model: Transformer, config: OptimConfig) -> list[Group]:
    """Groups that partition the parameters of `model`, with their peak rates."""
    width = (model.config.dim / REFERENCE_WIDTH) ** -0.5
    embedding, head = config.embedding_lr * width, config.unembedding_lr * width
    rules: list[tuple[str, Callable[[str], bool], float, dict]] = [
        ("matrices", lambda n: n.startswith("blocks.") and "value_gate" not in n, config.matrix_lr,
         {"muon": True, "weight_decay": config.weight_decay}),
        ("embedding", lambda n: n == "embedding.weight", embedding, {"betas": config.embedding_betas}),
        ("head", lambda n: n == "head.weight", head, {"betas": config.head_betas}),
        ("taps", lambda n: n == "taps", head, {}),
        ("value_embeddings", lambda n: n.startswith("value_embeddings."), embedding / 2,
         {"betas": config.embedding_betas}),
        ("gates", lambda n: "gate" in n, config.scalar_lr * 0.01, {}),
        ("residual_lambdas", lambda n: n == "residual_lambdas", config.scalar_lr * 0.01, {"eps": LAMBDA_EPS}),
        ("scalars", lambda n: n in ("embedding_lambdas", "backout_lambda"), config.scalar_lr,
         {"betas": (0.96, 0.95), "eps": LAMBDA_EPS}),
        ("smear", lambda n: n == "smear_lambda", 0.2, {}),
    ]  # fmt: skip
    named = [(n, p) for n, p in model.named_parameters() if p.numel()]
    groups = []
    for name, belongs, peak, settings in rules:
        members = tuple((n, p) for n, p in named if belongs(n))
        if members:
            groups.append(Group(name, members, peak * config.lr_scale, **settings))
    owned = sorted(n for group in groups for n, _ in group.params)
    assert owned == sorted(n for n, _ in named), "the groups must partition the parameters"
    return groups
