"""Scaling rules: data, batch size, learning rates and weight decay as functions of model size, tuned at depth 12.

N is the number of parameters of matrix products (`accounting.scaling_parameters`), D the number of tokens. The batch
follows Bergsma et al. 2025 (arXiv 2505.13738), B ~ D^0.383; learning rates grow with the square root of the batch; the
weight decay keeps its time constant a fixed fraction of the run (Wang & Aitchison 2024, 2405.13698).
"""

from __future__ import annotations

import math

from aquarat_core.config.accounting import flops_per_token, scaling_parameters
from aquarat_core.config.training import PretrainConfig

REFERENCE_BATCH = 1 << 19
"""Tokens per step for which the learning rates are specified."""
REFERENCE_DECAY = 0.28
"""Weight decay of the matrices at the batch and tokens of the reference model."""
TOKENS_PER_PARAMETER = 12.0
BATCH_EXPONENT = 0.383


def training_tokens(parameters: int, ratio: float = TOKENS_PER_PARAMETER) -> int:
    """D = ratio x N."""
    return round(ratio * parameters)


def batch_tokens(tokens: int, reference_tokens: int) -> int:
    """Tokens per step for a run of `tokens`, a power of two; `reference_tokens` is D of the reference model."""
    exact = math.log2(REFERENCE_BATCH * (tokens / reference_tokens) ** BATCH_EXPONENT)
    return 2 ** round(exact)


def lr_scale(batch: int) -> float:
    """Factor by which learning rates are multiplied at `batch` tokens per step."""
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
    """Number of steps of a run: from a FLOPs budget, else from a ratio of tokens to parameters, else `steps`."""
    if target_flops is not None:
        return max(1, round(target_flops / (flops * batch)))
    if tokens_per_parameter is not None:
        return max(1, training_tokens(parameters, tokens_per_parameter) // batch)
    return steps


def horizon_of(config: PretrainConfig, vocab_size: int) -> int:
    """Number of steps of pretraining: that of the config, or as many as its budget allows with this vocabulary."""
    return horizon(
        config.batch_tokens,
        scaling_parameters(config.model, vocab_size),
        flops_per_token(config.model, vocab_size),
        steps=config.steps,
        target_flops=config.target_flops,
        tokens_per_parameter=config.tokens_per_parameter,
    )
