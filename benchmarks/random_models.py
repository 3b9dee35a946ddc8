"""A model with random weights of which none is zero, so that every layer has a say in its answers."""

from __future__ import annotations

import torch

from aquarat_core.config import ModelConfig
from aquarat_core.model.transformer import Transformer

MODEL = ModelConfig(depth=4, width_per_layer=64, head_size=64, sequence_len=1024)


@torch.no_grad()
def random_model(vocab_size: int, dtype: torch.dtype, config: ModelConfig = MODEL) -> Transformer:
    """A model with `vocab_size` ids; always the same weights."""
    model, generator = Transformer(config, vocab_size, dtype), torch.Generator().manual_seed(0)
    model.init_weights(generator)
    for block in model.blocks:
        block.attention.out.weight.normal_(0.0, 0.05, generator=generator)
        block.mlp.down.weight.normal_(0.0, 0.02, generator=generator)
    model.head.weight.normal_(0.0, 0.1, generator=generator)
    return model
