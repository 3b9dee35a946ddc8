"""Finds errors before the first step, and explains running out of memory in terms of the config."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from aquarat_core.config import ConfigError, TrainConfig
from aquarat_core.config.accounting import MAX_SAVED_ATTENTION, training_bytes
from aquarat_core.model import fused
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.runtime.memory import free_bytes

LOWER = "lower micro_batch_rows (batch_tokens may stay: a step then takes more passes)"
SMALLER = "or take a smaller model.depth or sequence_len"
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def check_run(model: Transformer, config: TrainConfig, world: World) -> None:
    """Raise `ConfigError` for a batch of no whole number of rows, or a model that will not fit into this host's
    memory."""
    T = model.config.sequence_len
    rows, rest = divmod(config.batch_tokens, T)
    if rest:
        raise ConfigError(
            f"batch_tokens {config.batch_tokens} is not a multiple of sequence_len {T}: change one of them"
        )
    per_rank = min(config.micro_batch_rows, world.largest_share(rows))
    on_cpu = world.device.type == "cpu"
    needed = training_bytes(
        model.config, model.vocab_size, per_rank, ranks=world.size,
        keeps_attention=on_cpu and fused.enabled and T <= MAX_SAVED_ATTENTION,
        keeps_logits=config.launch.compiles_on(world.device.type),
    )  # fmt: skip
    free = free_bytes(world.device)
    if on_cpu:
        # Each rank on this host is about to take as much.
        free //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if needed > free:
        raise ConfigError(
            f"training needs at least {needed / 1e9:.1f} GB on each rank, but {free / 1e9:.1f} GB are free: "
            f"{LOWER}, {SMALLER}"
        )


@contextmanager
def out_of_memory_explained(config: TrainConfig) -> Generator[None]:
    """Turn a failed allocation into a `ConfigError` that names the fields to lower."""
    try:
        yield
    except RuntimeError as e:
        if not any(text in str(e).lower() for text in _OUT_OF_MEMORY):
            raise
        first_line = str(e).splitlines()[0]
        raise ConfigError(
            f"memory ran out with micro_batch_rows {config.micro_batch_rows} ({first_line}): {LOWER}, {SMALLER}"
        ) from None
