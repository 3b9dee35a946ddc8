"""How many completions a model can generate at a time with the memory that is free."""

from __future__ import annotations

from aquarat_core.api import Model
from aquarat_core.runtime.memory import free_bytes

SHARE = 0.5
"""Share of the free memory that the KV caches of all models together may take."""


def row_bytes(model: Model, max_new_tokens: int) -> int:
    """Bytes that the KV cache needs for one completion: keys and values of a prompt as long as the context, and of
    `max_new_tokens`, in float32 on a CPU."""
    config = model.config
    size = 4 if model.device.type == "cpu" else model.dtype.itemsize
    return 2 * config.depth * config.kv_heads * config.head_size * (config.sequence_len + max_new_tokens) * size


def rows_that_fit(model: Model, wanted: int, max_new_tokens: int, models: int) -> int:
    """`wanted`, or as many as fit if each of `models` has the same share of memory; at least 1."""
    return max(1, min(wanted, int(free_bytes(model.device) * SHARE / models) // row_bytes(model, max_new_tokens)))
