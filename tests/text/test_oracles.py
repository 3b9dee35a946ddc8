"""On twenty megabytes: merges identical to rustbpe's, ids to tiktoken's, pieces to those of the `regex` module."""

from __future__ import annotations

import random
import sysconfig
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import regex
import rustbpe
import rustbpe_py
import tiktoken

from aquarat_core.config import SPLIT_PATTERN
from aquarat_core.text.compression import CL100K_PATTERN
from aquarat_core.text.formats import GPT2_PATTERN

TRAIN_BYTES = 20_000_000
HELD_OUT_BYTES = 5_000_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def files() -> Iterator[str]:
    """Sources and notes of Python and its libraries, mixed."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    paths = sorted(p for root in roots for p in root.rglob("*") if p.suffix in (".py", ".md", ".txt", ".rst"))
    random.Random(6).shuffle(paths)
    for path in paths:
        try:
            yield path.read_text(encoding="utf-8")[:200_000]
        except (OSError, UnicodeDecodeError):
            continue


@pytest.fixture(scope="module")
def corpus() -> tuple[list[str], list[str]]:
    parts: tuple[list[str], list[str]] = ([], [])
    sizes, limits = [0, 0], (TRAIN_BYTES, HELD_OUT_BYTES)
    for text in files():
        which = int(sizes[0] >= limits[0])
        parts[which].append(text)
        sizes[which] += len(text.encode())
        if sizes[1] >= limits[1]:
            return parts
    raise AssertionError(f"Python's libraries have only {sizes} bytes of text")


@pytest.fixture(scope="module")
def trained(corpus: tuple[list[str], list[str]]) -> list[tuple[int, int]]:
    return rustbpe_py.train(iter(corpus[0]), 12_000, SPLIT_PATTERN)


def tokens_of(merges: list[tuple[int, int]]) -> list[bytes]:
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


@pytest.mark.parametrize("vocab_size", [4_000, 12_000])
def test_merges_equal_rustbpe(corpus, trained: list[tuple[int, int]], vocab_size: int) -> None:
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter(corpus[0]), vocab_size, pattern=SPLIT_PATTERN)
    ranks = sorted(theirs.get_mergeable_ranks(), key=lambda ranked: ranked[1])
    expected = [bytes(token) for token, _ in ranks]
    assert len(expected) == vocab_size
    assert tokens_of(trained[: vocab_size - 256]) == expected


def test_threads_do_not_change_the_merges(corpus, trained: list[tuple[int, int]]) -> None:
    for threads in (1, 3):
        assert rustbpe_py.train(corpus[0][::-1], 2_000, SPLIT_PATTERN, threads=threads) == trained[: 2_000 - 256]


def test_ids_equal_tiktoken(corpus, trained: list[tuple[int, int]]) -> None:
    ranks: dict[bytes, int] = {}
    for rank, token in enumerate(tokens_of(trained)):
        ranks.setdefault(token, rank)
    theirs = tiktoken.Encoding("x", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
    counter = rustbpe_py.PieceCounter(SPLIT_PATTERN)
    counter.add(corpus[0])
    frequent = [piece for piece, _ in counter.top(30_000)]
    expected = theirs.encode_ordinary_batch(corpus[1], num_threads=2)
    flat = [id_ for ids in expected for id_ in ids]
    assert len(flat) > 1_000_000
    for pieces in ([], frequent):
        ours = rustbpe_py.Encoder(SPLIT_PATTERN, trained, frequent_pieces=pieces)
        assert ours.encode_batch_to_numpy(corpus[1])[0].tolist() == flat
        assert ours.decode_batch(expected) == corpus[1]


@pytest.mark.parametrize("pattern", [SPLIT_PATTERN, GPT2_PATTERN, CL100K_PATTERN], ids=["own", "gpt2", "cl100k"])
def test_pieces_equal_the_regex_module(corpus, pattern: str) -> None:
    # In Python `$` also stands before a last line end; `\Z` is the end alone, as `$` is for tiktoken.
    theirs = regex.compile(pattern.replace("$", r"\Z"))
    ours = rustbpe_py.Encoder(pattern, [])
    n_pieces = 0
    for text in [*corpus[1], *random_texts(4_000)]:
        expected = [piece.encode() for piece in theirs.findall(text)]
        assert ours.split(text) == expected
        n_pieces += len(expected)
    assert n_pieces > 1_000_000


def random_texts(n: int) -> Iterator[str]:
    """Every plane of Unicode among what the patterns look at; of this Python's version, since newer ones class anew."""
    rng = random.Random(7)
    telling = ["'s", "'LL", "'\u017f", "12345", "½", "x", "é"]
    telling += [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028"]
    planes = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x1F6FF), (0x20000, 0x2A6DF)]

    def part() -> str:
        if rng.random() < 0.6:
            return rng.choice(telling)
        while unicodedata.category(character := chr(rng.randint(*rng.choice(planes)))) == "Cn":
            pass
        return character

    for _ in range(n):
        yield "".join(part() for _ in range(rng.randint(0, 60)))
