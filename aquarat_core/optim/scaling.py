"""How data, batch, rates and decay follow from a model's size: rules measured at depth 12 and carried to others.

N are the parameters of matrix products (`accounting.scaling_parameters`), D the tokens. The batch follows Bergsma et
al. 2025 (arXiv 2505.13738), B ~ D^0.383; rates grow with the root of the batch; the weight decay keeps its time
constant over the run (Wang & Aitchison 2024, 2405.13698).
"""

from __future__ import annotations

import math

from aquarat_core.config import BaseConfig
from aquarat_core.model.accounting import flops_per_token, scaling_parameters

REFERENCE_BATCH = 1 << 19
"""Tokens of a step at which the rates are given."""
REFERENCE_DECAY = 0.28
"""Weight decay of the matrices at the reference's batch and tokens."""
TOKENS_PER_PARAMETER = 12.0
BATCH_EXPONENT = 0.383


def training_tokens(parameters: int, ratio: float = TOKENS_PER_PARAMETER) -> int:
    """D = ratio x N."""
    return round(ratio * parameters)


def batch_tokens(tokens: int, reference_tokens: int) -> int:
    """Tokens of a step for a run of `tokens`, a power of two; `reference_tokens` is D of the reference model."""
    exact = math.log2(REFERENCE_BATCH * (tokens / reference_tokens) ** BATCH_EXPONENT)
    return 2 ** round(exact)


def lr_scale(batch: int) -> float:
    """What the rates are multiplied by at `batch` tokens a step."""
    return math.sqrt(batch / REFERENCE_BATCH)


def weight_decay(batch: int, tokens: int, reference_tokens: int) -> float:
    """Weight decay of the matrices for a run of `tokens` in steps of `batch`."""
    return REFERENCE_DECAY * lr_scale(batch) * reference_tokens / tokens


def horizon(
    batch: int,
    parameters: int,
    flops: float,
    *,
    steps: int,
    target_flops: float | None = None,
    tokens_per_parameter: float | None = None,
) -> int:
    """Steps of a run: for a budget of FLOPs, else for a ratio of tokens to parameters, else as given."""
    if target_flops is not None:
        return max(1, round(target_flops / (flops * batch)))
    if tokens_per_parameter is not None:
        return max(1, training_tokens(parameters, tokens_per_parameter) // batch)
    return steps


def horizon_of(config: BaseConfig, vocab_size: int) -> int:
    """Steps of pretraining: those of the config, or what its budget comes to for a model of this vocabulary."""
    return horizon(
        config.batch_tokens,
        scaling_parameters(config.model, vocab_size),
        flops_per_token(config.model, vocab_size),
        steps=config.steps,
        target_flops=config.target_flops,
        tokens_per_parameter=config.tokens_per_parameter,
    )
