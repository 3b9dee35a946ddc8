"""Models whose weights are set by hand, so that it is known where each head looks and what the model says.

Channels of the residual stream: `TOKENS` one-hot tokens, then as many for the token before, then one that is always on.
Features that an attention head compares lie on slow rotary pairs, so that the distance between tokens does not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aquarat_core.config import ModelConfig
from aquarat_core.model.transformer import Transformer, rotary_table

TOKENS, HEAD, SCALE = 20, 32, 8.0
BEFORE, ALWAYS = TOKENS, 2 * TOKENS
SLOW = [*range(6, 16), *range(22, 32)]
"""Features of a head that turn by less than a hundredth of a radian over the lengths used here."""


def empty_model(depth: int = 1, **config: object) -> Transformer:
    """Embeds tokens as one-hot vectors; every head attends to all it sees alike, and writes nothing."""
    described = {"width_per_layer": 64 // depth, "head_size": HEAD, "sequence_len": 64, "rope_base": 1e8}
    model = Transformer(ModelConfig(depth=depth, qk_scale=SCALE, **(described | config)), TOKENS)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for token in range(TOKENS):
            model.embedding.weight[token, token] = 1.0
        model.embedding.weight[:, ALWAYS] = 1.0
    return model


@torch.no_grad()
def look_back(model: Transformer, layer: int, head: int, offset: int) -> None:
    """Let a head attend to the token `offset` places before, whatever the tokens are."""
    attention, part = model.blocks[layer].attention, slice(head * HEAD, (head + 1) * HEAD)
    cos, sin = rotary_table(offset + 1, HEAD, model.config.rope_base)
    key_1, key_2 = torch.ones(HEAD // 2), torch.zeros(HEAD // 2)
    cos, sin = cos[offset], sin[offset]
    # Rotary embedding turns queries and keys by minus their position: a query is its key turned on by the offset.
    query = torch.cat([key_1 * cos - key_2 * sin, key_2 * cos + key_1 * sin])
    attention.k.weight[part, ALWAYS] = torch.cat([key_1, key_2])
    attention.q.weight[part, ALWAYS] = query


@torch.no_grad()
def copying_model() -> Transformer:
    """Two layers that make an induction head: the first writes to each token which one came before it, head 0 of the
    second looks for the token that came after the present one, and says it."""
    model = empty_model(depth=2)
    look_back(model, 0, 0, 1)
    first, second = (block.attention for block in model.blocks)
    for token in range(TOKENS):
        _move(first.v.weight, first.out.weight, token, token, BEFORE + token, 1.0)
        second.q.weight[SLOW[token], token] = 1.0
        second.k.weight[SLOW[token], BEFORE + token] = 1.0
        _move(second.v.weight, second.out.weight, token, token, token, 10.0)
        model.head.weight[token, token] = 4.0
    return model


def _move(v: Tensor, out: Tensor, feature: int, source: int, target: int, strength: float) -> None:
    v[feature, source] = 1.0
    out[target, feature] = strength
