"""Parameters, FLOPs and bytes of a model, computed from its config alone. Does not import torch.

A matrix product with N weights costs 2N FLOPs per token forward and 4N backward; attention adds 2 x 2 x T x dim forward
for scores and values with context T (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import math

from aquarat_core.config import ModelConfig

VOCABULARY_MULTIPLE = 64
"""Embedding and head are padded to a multiple of this many rows, for faster matrix products."""
VALUE_GATE_CHANNELS = 12
"""Channels of the residual stream that the gate of a value embedding reads."""
MAX_SAVED_ATTENTION = 1024
"""Maximum length of rows whose attention probabilities a CPU saves for the backward pass."""
SMEAR_CHANNELS = 24
"""Channels of an embedding that its smear gate reads."""


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
    """Estimated bytes for training on one rank with micro-batches of `rows` rows.

    The sum of float32 master weights and gradients, and with several ranks their flat copies for communication; the
    optimizer's moments (one for matrices, two for other parameters), sharded over the ranks; and the two-byte
    activations saved for the backward pass: 20 times the width per token and block and, if saved, the attention
    probabilities (one per pair of tokens and head) and the logits with their gradient.
    """
    weights, matrices = parameters(config, vocab_size), matrix_parameters(config)
    moments = (matrices + 2 * (weights - matrices)) / ranks
    flat = weights * (1 + 1 / ranks) if ranks > 1 else 0
    probabilities = config.n_head * sum(config.windows) if keeps_attention else 0
    logits = 2 * padded_vocabulary(vocab_size) if keeps_logits else 0
    kept = rows * config.sequence_len * (20 * config.dim * config.depth + probabilities + logits)
    return int(4 * (2 * weights + moments + flat) + 2 * kept)


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
