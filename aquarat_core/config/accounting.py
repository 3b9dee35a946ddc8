"""Parameters, FLOPs and bytes of a model, computed from its config alone. Does not import torch.

A matrix product with N weights costs 2N FLOPs per token forward and 4N backward; attention adds 2 x 2 x T x dim forward
for scores and values with context T (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import math

from aquarat_core.config.model import ModelConfig
from aquarat_core.config.rl import RLConfig

VOCABULARY_MULTIPLE = 64
"""Embedding and head are padded to a multiple of this many rows, for faster matrix products."""
VALUE_GATE_CHANNELS = 12
"""Channels of the residual stream that the gate of a value embedding reads."""
MAX_SAVED_ATTENTION = 1024
"""Maximum length of rows whose attention probabilities a CPU saves for the backward pass."""
SMEAR_CHANNELS = 24
"""Channels of an embedding that its smear gate reads."""
QUESTION_TOKENS = 512
"""Tokens that a question of RL is assumed to have at most; the longest of published questions have about half of it."""
EAGER_WIDTHS = 28
"""Values that eager operations save per token and block for the backward pass, in widths of the model."""
LOGIT_COPIES = 5
"""Float32 copies of the completions' logits that RL's update holds at its peak: two saved, the others on the way."""


def padded_vocabulary(vocab_size: int) -> int:
    """Rows of the embedding and the head."""
    return math.ceil(vocab_size / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def matrix_parameters(config: ModelConfig) -> int:
    """Weights of all blocks, including the gates of value embeddings."""
    kv_dim = config.kv_heads * config.head_size
    attention = 2 * config.dim * config.dim + 2 * config.dim * kv_dim
    gates = sum(config.has_value_embedding(i) for i in range(config.depth)) * VALUE_GATE_CHANNELS * config.kv_heads
    return config.depth * (attention + 8 * config.dim * config.dim) + gates


def value_embedding_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Weights of the tables that layers add to their values."""
    tables = sum(config.has_value_embedding(i) for i in range(config.depth))
    return tables * padded_vocabulary(vocab_size) * config.kv_heads * config.head_size


def scaling_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Weights that determine the amount of data and the batch size: those of matrix products, in blocks and head."""
    return matrix_parameters(config) + padded_vocabulary(vocab_size) * config.dim


def parameters(config: ModelConfig, vocab_size: int) -> int:
    """All weights: blocks, embedding and its taps, untied head, and those of options."""
    embedding = (padded_vocabulary(vocab_size) + config.embedding_taps) * config.dim
    scalars = 2 * config.depth * config.residual_lambdas + (SMEAR_CHANNELS + 1) * config.smear + config.backout
    return scaling_parameters(config, vocab_size) + embedding + value_embedding_parameters(config, vocab_size) + scalars


def flops_per_token(config: ModelConfig, vocab_size: int) -> int:
    """FLOPs of one training token, forward and backward, in rows of the full length.

    As usual, attention counts every position of a layer's window, although causal attention can skip half of them.
    FLOPs of all precisions count the same: rates with 8-bit products are bfloat16 equivalents.
    """
    smear = SMEAR_CHANNELS * config.smear
    return 6 * (scaling_parameters(config, vocab_size) + smear) + 12 * config.n_head * config.head_size * sum(
        config.windows
    )


def training_bytes(
    config: ModelConfig,
    vocab_size: int,
    rows: int,
    *,
    ranks: int = 1,
    keeps_attention: bool = False,
    keeps_logits: bool = False,
) -> int:
    """Estimated bytes for training on one rank with micro-batches of `rows` rows: the sum of `training_parts`."""
    kept = {"keeps_attention": keeps_attention, "keeps_logits": keeps_logits}
    return sum(training_parts(config, vocab_size, rows, ranks=ranks, **kept).values())


def training_parts(
    config: ModelConfig,
    vocab_size: int,
    rows: int,
    *,
    ranks: int = 1,
    keeps_attention: bool = False,
    keeps_logits: bool = False,
) -> dict[str, int]:
    """Estimated bytes of one rank's training with micro-batches of `rows` rows, by part.

    `weights` and `gradients` are float32; `exchange` are the buffers for communication between several ranks;
    `optimizer` are the moments (one for matrices, two for other parameters), sharded over the ranks. `activations` are
    the two-byte values saved for the backward pass, 20 times the width per token and block, and if saved the attention
    probabilities (one per pair of tokens and head); `logits` are those that are saved, with their gradient.
    """
    probabilities = config.n_head * sum(config.windows) if keeps_attention else 0
    logits = 2 * padded_vocabulary(vocab_size) if keeps_logits else 0
    tokens = rows * config.sequence_len
    return state_parts(config, vocab_size, ranks) | {
        "activations": 2 * tokens * (20 * config.dim * config.depth + probabilities),
        "logits": 2 * tokens * logits,
    }


def state_parts(config: ModelConfig, vocab_size: int, ranks: int) -> dict[str, int]:
    """The parts of `training_parts` that do not depend on the micro-batch."""
    weights, matrices = parameters(config, vocab_size), matrix_parameters(config)
    return {
        "weights": 4 * weights,
        "gradients": 4 * weights,
        "exchange": int(4 * weights * (1 + 1 / ranks)) if ranks > 1 else 0,
        "optimizer": int(4 * (matrices + 2 * (weights - matrices)) / ranks),
    }


def rl_parts(
    config: ModelConfig,
    vocab_size: int,
    rl: RLConfig,
    *,
    micro_batch_rows: int | None = None,
    rollout_rows: int | None = None,
) -> dict[str, int]:
    """Estimated bytes of one rank in RL, by part, at the most: all questions have `QUESTION_TOKENS` tokens and no
    completion ends early.

    To the parts of `training_parts` come the frozen `reference`, the sampler's copy of the weights (matrices in two
    bytes) and its `rollout_cache`, which stays allocated during the update. The update runs eagerly and so keeps more
    of each block, and several float32 copies of the logits of completions.
    """  # fmt: skip
    ranks, answer = rl.launch.nproc, rl.max_new_tokens
    question = min(QUESTION_TOKENS, config.sequence_len - answer)
    samples = -(-rl.prompts_per_step * rl.group_size // ranks)
    rows = min(micro_batch_rows or rl.micro_batch_rows, samples)
    sampled = min(rollout_rows or rl.rollout_rows, samples)
    weights, products = parameters(config, vocab_size), scaling_parameters(config, vocab_size)
    # The cache keeps the prompts of twice as many full groups as its rows hold.
    prompts = min(-(-samples // rl.group_size), max(2, 2 * sampled // rl.group_size))
    return state_parts(config, vocab_size, ranks) | {
        # With the matrices in two bytes, which each pass keeps for its way back.
        "activations": 2 * rows * (question + answer) * EAGER_WIDTHS * config.dim * config.depth + 2 * products,
        "logits": LOGIT_COPIES * 4 * rows * answer * vocab_size,
        "reference": 4 * weights,
        "sampler": 4 * (weights - products) + 2 * products,
        "rollout_cache": kv_bytes_per_token(config) * (sampled * answer + prompts * question),
    }


def kv_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Bytes of one token's keys and values in the KV cache."""
    return 2 * config.depth * config.kv_heads * config.head_size * bytes_per_value


def describe(config: ModelConfig, vocab_size: int) -> dict[str, int | str]:
    """Key facts about a model, for tables."""
    return {
        "depth": config.depth,
        "dim": config.dim,
        "heads": f"{config.n_head} x {config.head_size}",
        "vocabulary": vocab_size,
        "sequence_len": config.sequence_len,
        "parameters": parameters(config, vocab_size),
        "value_embeddings": value_embedding_parameters(config, vocab_size),
        "scaling_parameters": scaling_parameters(config, vocab_size),
        "flops_per_token": flops_per_token(config, vocab_size),
        "kv_bytes_per_token": kv_bytes_per_token(config),
    }
