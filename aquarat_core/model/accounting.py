"""Parameters, FLOPs and bytes of a model, counted from its config alone. Imports no torch.

A matrix product of N weights costs 2N FLOPs a token forward and 4N backward; attention adds 2 x 2 x T x dim forward
for scores and values at context T (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import math

from aquarat_core.config import ModelConfig

VOCABULARY_MULTIPLE = 64
"""Embedding and head are padded to a multiple of this many rows: matrix products are faster."""


def padded_vocabulary(vocab_size: int) -> int:
    """Rows of the embedding and the head."""
    return math.ceil(vocab_size / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def matrix_parameters(config: ModelConfig) -> int:
    """Weights of all blocks."""
    kv_dim = config.kv_heads * config.head_size
    attention = 2 * config.dim * config.dim + 2 * config.dim * kv_dim
    return config.depth * (attention + 8 * config.dim * config.dim)


def parameters(config: ModelConfig, vocab_size: int) -> int:
    """All weights: blocks, embedding and its taps, and untied head."""
    vectors = 2 * padded_vocabulary(vocab_size) + config.embedding_taps
    return matrix_parameters(config) + vectors * config.dim


def flops_per_token(config: ModelConfig, vocab_size: int) -> int:
    """FLOPs of one training token, forward and backward, at the full sequence length."""
    weights = matrix_parameters(config) + padded_vocabulary(vocab_size) * config.dim
    return 6 * weights + 12 * config.depth * config.dim * config.sequence_len


def kv_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Bytes of keys and values that one token keeps in the cache."""
    return 2 * config.depth * config.kv_heads * config.head_size * bytes_per_value


def describe(config: ModelConfig, vocab_size: int) -> dict[str, int | str]:
    """The facts a person asks for, for tables."""
    return {
        "depth": config.depth,
        "dim": config.dim,
        "heads": f"{config.n_head} x {config.head_size}",
        "vocabulary": vocab_size,
        "sequence_len": config.sequence_len,
        "parameters": parameters(config, vocab_size),
        "flops_per_token": flops_per_token(config, vocab_size),
        "kv_bytes_per_token": kv_bytes_per_token(config),
    }
