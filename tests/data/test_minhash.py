"""Signatures find equal and nearly equal texts, and hardly others."""

from __future__ import annotations

import random

import numpy as np
import pytest

from aquarat_core.data.minhash import BANDS, ROWS, RUN, bands, digest
from aquarat_core.data.repeats import first_equal

WORDS = 400


def random_words(rng: random.Random, n: int) -> list[str]:
    return ["".join(rng.choices("abcdefghij", k=6)) for _ in range(n)]


def similarity(a: list[str], b: list[str]) -> float:
    """The Jaccard similarity of two texts' runs of words."""
    runs = [{tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)} for words in (a, b)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


@pytest.mark.parametrize("shared", [200, 270, 340])
def test_texts_share_a_band_as_often_as_their_similarity_says(shared: int) -> None:
    rng = random.Random(shared)
    found, expected = [], []
    for _ in range(150):
        common = random_words(rng, shared)
        a, b = (common + random_words(rng, WORDS - shared) for _ in range(2))
        found.append(bool((bands(" ".join(a)) == bands(" ".join(b))).any()))
        expected.append(1 - (1 - similarity(a, b) ** ROWS) ** BANDS)
    p = np.mean(expected)
    error = (p * (1 - p) / len(found)) ** 0.5
    assert abs(np.mean(found) - p) < 4 * error + 0.01, (np.mean(found), p)


def test_what_counts_as_equal() -> None:
    text = "Seven painters paint\nnine équal fences in eleven days."
    same = "  SEVEN painters paint nine e\u0301qual fences\tin eleven days. "
    assert digest(text) == digest(same) and (bands(text) == bands(same)).all()
    assert digest(text) != digest(text.replace("nine", "ten")) and len(digest(text)) == 16
    assert digest("!!!") != digest("???") and not (bands("!!!") == bands("???")).any()
    assert not (bands("one two three") == bands("one two four")).any(), "shorter than a run"
    assert bands("one two three").shape == (BANDS,) and bands("").dtype == np.uint64


def test_signatures_stay_the_same_forever() -> None:
    """Other values would make every shard anew, and shards of two versions must not be compared."""
    text = "A train 120 m long crosses a bridge 380 m long in 25 seconds."
    assert digest(text).hex() == DIGEST
    assert [f"{value:016x}" for value in bands(text)[:2].tolist()] == FIRST_BANDS


DIGEST = "be1a84d91d351782193d17f7d66c6661"
FIRST_BANDS = ["55d20ea6652c3119", "d176a04d40c41aff"]


def test_long_texts_are_hashed_in_parts() -> None:
    words = random_words(random.Random(5), 3_000)
    assert (bands(" ".join(words)) == bands(" ".join([*words, *words[:4]]))).sum() >= BANDS - 1
    assert not (bands(" ".join(words)) == bands(" ".join(reversed(words)))).any()


def test_the_first_of_equal_ones_is_found() -> None:
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 500):
        columns = [rng.integers(0, 12, n).astype(np.uint64) for _ in range(2)]
        for chosen in (columns, columns[:1]):
            rows = list(zip(*(column.tolist() for column in chosen), strict=True))
            assert first_equal(chosen).tolist() == [rows.index(row) for row in rows]
