"""Signatures of texts, by which equal and nearly equal ones are found without comparing every pair.

Equal are texts that differ in case and white space only. Near duplicates are found by MinHash in bands (Broder 1997),
with the numbers of FineWeb (Penedo et al. 2024, arXiv 2406.17557): 14 bands of 8 minima over runs of 5 words. Two texts
whose runs have the Jaccard similarity s share a band with probability 1 - (1 - s^8)^14: 0.05 for s = 0.5, 0.77 for
0.75, 0.92 for 0.8 and 0.9996 for 0.9.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from zlib import crc32

import numpy as np
import numpy.typing as npt

BANDS, ROWS, RUN = 14, 8, 5
DIGEST_BYTES = 16
"""Long enough that no two different texts of a corpus share a digest."""
_AT_ONCE = 512
"""Runs hashed together, so that the products stay in a core's cache."""
_WORD = re.compile(r"\w+")

Hashes = npt.NDArray[np.uint64]


def digest(text: str) -> bytes:
    """The same `DIGEST_BYTES` bytes for texts that differ in case, white space and composition of characters only."""
    return hashlib.blake2b(_plain(text).encode(), digest_size=DIGEST_BYTES).digest()


def bands(text: str) -> Hashes:
    """`BANDS` hashes; texts that have one of them in common, in its place, are near duplicates.

    A text of fewer than `RUN` words only shares them with equal ones.
    """
    runs = _runs(_WORD.findall(_plain(text)))
    if not len(runs):
        runs = np.frombuffer(digest(text), "<u8").astype(np.uint64)
    lowest = np.full(BANDS * ROWS, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(runs), _AT_ONCE):
        part = runs[None, start : start + _AT_ONCE] * _FACTORS[:, None] + _SUMMANDS[:, None]
        lowest = np.minimum(lowest, part.min(axis=1))
    return _folded(lowest.reshape(BANDS, ROWS).T)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _runs(words: list[str]) -> Hashes:
    """A hash of each run of `RUN` words."""
    hashes = np.fromiter((crc32(word.encode()) for word in words), np.uint64, len(words))
    n = max(0, len(words) - RUN + 1)
    return _folded(np.stack([hashes[k : k + n] for k in range(RUN)]))


def _folded(rows: Hashes) -> Hashes:
    """One hash of each column."""
    found = np.zeros(rows.shape[1], np.uint64)
    for row in rows:
        found = _mixed(found + row)
    return found


def _mixed(x: Hashes) -> Hashes:
    """A permutation of 64-bit numbers in which every bit depends on every other (the end of SplitMix64)."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# Not from numpy's generators, whose streams may change with its version.
_FACTORS = _mixed(np.arange(BANDS * ROWS, dtype=np.uint64)) | np.uint64(1)
_SUMMANDS = _mixed(np.arange(BANDS * ROWS, dtype=np.uint64) + np.uint64(1 << 32))
