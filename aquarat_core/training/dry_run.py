"""Builds what training builds, on tensors without values: sizes and shapes without the memory.

A model whose parts do not fit each other fails here in a second instead of on rented GPUs.
"""

from __future__ import annotations

from functools import cache

import torch

from aquarat_core.config import LaunchConfig, ModelConfig, OptimConfig
from aquarat_core.model.transformer import Transformer
from aquarat_core.optim.groups import parameter_groups
from aquarat_core.runtime.distributed import World
from aquarat_core.training.optimizer import ShardedOptimizer
from aquarat_core.training.shards import capacity, plan

META = torch.device("meta")
FLOAT = 4


def state_bytes(config: ModelConfig, vocab_size: int, ranks: int) -> dict[str, int]:
    """Bytes of the weights, gradients, exchange buffers and optimizer moments of the rank that has the most.

    The shares of the ranks are those of a run, so they need not be equal. Predicts one row, to check that the model's
    parts fit each other.
    """
    return _state_bytes(config.model_dump_json(), vocab_size, ranks)


@cache
def _state_bytes(model_json: str, vocab_size: int, ranks: int) -> dict[str, int]:
    config = ModelConfig.model_validate_json(model_json)
    with META:
        model = Transformer(config, vocab_size, torch.bfloat16)
        ids = torch.zeros(1, config.sequence_len, dtype=torch.long)
    with torch.no_grad():
        logits = model(ids)
    assert logits.shape == (1, config.sequence_len, vocab_size)
    weights = sum(p.numel() for p in model.parameters())
    # Sizes do not depend on rates, nor on the number of steps.
    buckets = plan(parameter_groups(model, OptimConfig()), ranks, LaunchConfig().bucket_mb * 1e6)
    return {
        "weights": FLOAT * weights,
        "gradients": FLOAT * weights,
        "exchange": FLOAT * sum(map(capacity, buckets)) * (ranks + 1) if ranks > 1 else 0,
        "optimizer": max(_moments(model, World(rank, ranks, META, torch.bfloat16)) for rank in range(ranks)),
    }


def _moments(model: Transformer, world: World) -> int:
    optimizer = ShardedOptimizer(model, OptimConfig(), 1, world)
    return sum(tensor.nbytes for kinds in optimizer.moments.values() for tensor in kinds.values())
