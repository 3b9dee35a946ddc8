"""Counter-based randomness: a draw depends on its key and position alone, never on the rest of the batch.

The mixer is SplitMix64 (Steele, Lea & Flood 2014, doi 10.1145/2660193.2660195) with wrapping int64 arithmetic.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB
_MANTISSA = 24


def row_key(*parts: int | str) -> int:
    """A 64-bit key of a row, e.g. of (seed, step, question id, sample)."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _wrapped(n: int) -> int:
    """n modulo 2^64 as a signed integer: torch accepts no Python integer beyond int64."""
    return (n + (1 << 63)) % (1 << 64) - (1 << 63)


def _shift_right(x: Tensor, n: int) -> Tensor:
    return (x >> n) & ((1 << (64 - n)) - 1)


def uniform(keys_B: Tensor, position: Tensor | int) -> Tensor:
    """One float32 draw [B] in [0, 1) for each int64 key at this position of its row (one for all, or [B]).

    Other shapes are broadcast.
    """
    advance = (position + 1) * _GOLDEN  # products of int64 tensors wrap around on their own
    z = keys_B + (_wrapped(advance) if isinstance(advance, int) else advance)
    z = (z ^ _shift_right(z, 30)) * _MIX1
    z = (z ^ _shift_right(z, 27)) * _MIX2
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 64 - _MANTISSA).to(torch.float32) / (1 << _MANTISSA)
