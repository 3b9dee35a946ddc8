"""Parameter groups: Muon for the matrices inside the blocks, AdamW for the rest.

Adam is the better choice for the embedding, a lookup, and the head, a classifier, which do not map between hidden
states. Their learning rates shrink with the square root of the width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from torch import nn

from aquarat_core.config import OptimConfig
from aquarat_core.model.transformer import Transformer

REFERENCE_WIDTH = 768
"""Width for which the AdamW rates are specified."""
ADAM_EPS = 1e-10
LAMBDA_EPS = 1e-6
"""Epsilon for the scalars that scale the residual stream. At the first step no block adds to the stream, so the norm
before the head cancels them: their gradients are rounding errors (1e-11 to 1e-8), which `ADAM_EPS` would amplify to a
full step in a random direction. From the second step on, gradients are at least about 1e-3."""


@dataclass(frozen=True, slots=True)
class ParamGroup:
    """Parameters with the same hyperparameters; the schedule scales `peak_lr`."""

    name: str
    params: tuple[tuple[str, nn.Parameter], ...]
    peak_lr: float
    muon: bool = False
    betas: tuple[float, float] = (0.8, 0.95)
    eps: float = ADAM_EPS
    weight_decay: float = 0.0
    cast: bool = False
    """Whether the model uses these weights only after a cast to the compute type."""


class _Settings(TypedDict, total=False):
    """The fields of a group that differ from their defaults."""

    muon: bool
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    cast: bool


def parameter_groups(model: Transformer, config: OptimConfig) -> list[ParamGroup]:
    """Groups that partition the parameters of `model`, with their peak learning rates."""
    width = (model.config.dim / REFERENCE_WIDTH) ** -0.5
    embedding, head = config.embedding_lr * width, config.unembedding_lr * width
    rules: list[tuple[str, Callable[[str], bool], float, _Settings]] = [
        ("matrices", lambda n: n.startswith("blocks.") and "value_gate" not in n, config.matrix_lr,
         {"muon": True, "weight_decay": config.weight_decay, "cast": True}),
        # Taps add up embeddings in float32.
        ("embedding", lambda n: n == "embedding.weight", embedding,
         {"betas": config.embedding_betas, "cast": not model.config.embedding_taps}),
        ("head", lambda n: n == "head.weight", head, {"betas": config.head_betas, "cast": True}),
        ("taps", lambda n: n == "taps", head, {}),
        ("value_embeddings", lambda n: n.startswith("value_embeddings."), embedding / 2,
         {"betas": config.embedding_betas, "cast": True}),
        ("gates", lambda n: "gate" in n, config.scalar_lr * 0.01, {}),
        ("residual_lambdas", lambda n: n == "residual_lambdas", config.scalar_lr * 0.01, {"eps": LAMBDA_EPS}),
        ("scalars", lambda n: n in ("embedding_lambdas", "backout_lambda"), config.scalar_lr,
         {"betas": (0.96, 0.95), "eps": LAMBDA_EPS}),
        ("smear", lambda n: n == "smear_lambda", 0.2, {}),
    ]  # fmt: skip
    named = [(n, p) for n, p in model.named_parameters() if p.numel()]
    groups: list[ParamGroup] = []
    for name, belongs, peak, settings in rules:
        members = tuple((n, p) for n, p in named if belongs(n))
        if members:
            groups.append(ParamGroup(name, members, peak * config.lr_scale, **settings))
    owned = sorted(n for group in groups for n, _ in group.params)
    assert owned == sorted(n for n, _ in named), "the groups must partition the parameters"
    return groups
