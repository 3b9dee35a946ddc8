"""Rank files and `tokenizer.json`: written ones encode the same where they are for, broken ones are refused."""

from __future__ import annotations

import base64
import json
import os
import random
import re
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
import tokenizers

from aquarat_core.config import SPLIT_PATTERN, TokenizerConfig
from aquarat_core.text.compression import CL100K_PATTERN, known_tokenizers, report
from aquarat_core.text.formats import (
    GPT2_PATTERN,
    from_tokens,
    load_hugging_face,
    load_tiktoken,
    ordinary_tokens,
    save_hugging_face,
    save_tiktoken,
)
from aquarat_core.text.tokenizer import N_BYTES, SPECIAL_TOKENS, Tokenizer, TokenizerError, train_tokenizer

PATTERNS = {"own": SPLIT_PATTERN, "gpt2": GPT2_PATTERN, "cl100k": CL100K_PATTERN}


def texts(n: int) -> list[str]:
    rng = random.Random(4)
    parts = ["don't", " THEY'LL", " 1234567", "\n\n", "  ", "\r\n", " x", "é漢🙂", "(a+b)", "\t", " the", "...\n"]
    parts.append("\u00a0z")
    return ["".join(rng.choices(parts, k=rng.randint(0, 30))) for _ in range(n)]


@pytest.fixture(params=PATTERNS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(texts(300), TokenizerConfig(vocab_size=450, pattern=PATTERNS[request.param]))


def test_a_rank_file_is_the_same_tokenizer_in_tiktoken(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "ranks.tiktoken"
    save_tiktoken(tokenizer, path)
    ranks = tiktoken.load.load_tiktoken_bpe(str(path))
    theirs = tiktoken.Encoding(
        "own", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=tokenizer.special_ids
    )
    for text in texts(200):
        assert theirs.encode_ordinary(text) == tokenizer.encode(text)
    back = load_tiktoken(path, tokenizer.pattern, SPECIAL_TOKENS)
    assert back.sha256 == tokenizer.sha256


def test_tokenizer_json_is_the_same_tokenizer_in_hugging_face(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    save_hugging_face(tokenizer, path)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    for text in texts(400):
        ids = theirs.encode(text).ids
        assert ids == tokenizer.encode(text), text
        assert theirs.decode(ids) == text
    assert theirs.encode("<|bos|>x").ids == tokenizer.encode("<|bos|>x", allowed_special="all")
    back = load_hugging_face(path)
    assert (back.merges, back.special_ids) == (tokenizer.merges, tokenizer.special_ids)
    assert back.encode_batch(texts(100)) == tokenizer.encode_batch(texts(100))


def test_what_hugging_face_trained_is_read_exactly(tmp_path: Path) -> None:
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    theirs.train_from_iterator(texts(300), trainer)
    theirs.add_special_tokens(["<|end|>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_hugging_face(tmp_path / "tokenizer.json")
    assert ours.byte_order != bytes(range(N_BYTES))  # theirs begin with "!"
    for text in texts(200):
        assert ours.encode(text) == theirs.encode(text).ids
    assert ours.encode("x<|end|>", "all") == theirs.encode("x<|end|>").ids


def test_cl100k_is_cl100k() -> None:
    ours = known_tokenizers()["cl100k"]
    ranks = {ours.token(id_): id_ for id_ in range(100_256)}
    theirs = tiktoken.Encoding("cl100k", pat_str=CL100K_PATTERN, mergeable_ranks=ranks, special_tokens={})
    rng = random.Random(5)
    mixed = [" ".join(rng.choices(["naïve", "tokenization", "漢字", "12345", "x\n", "🙂"], k=20)) for _ in range(50)]
    for text in [*texts(300), *mixed, Path(__file__).read_text()]:
        assert ours.encode(text) == theirs.encode_ordinary(text)
        assert ours.encode_to_numpy(text).dtype == "uint32"


def test_the_report_counts_bytes_and_tokens(tokenizer: Tokenizer) -> None:
    made = report(tokenizer, {"some": ["é x", ""], "none": []})
    own = made["compression"]["some"]["own"]
    n = len(tokenizer.encode("é x"))
    assert own == {"texts": 2, "bytes": 4, "tokens": n, "bytes_per_token": 4 / n}
    assert made["compression"]["none"]["cl100k"]["bytes_per_token"] == 0.0
    assert sum(made["token_lengths"].values()) == len(tokenizer.merges)
    longest = max(map(len, ordinary_tokens(tokenizer)))
    assert max(made["token_lengths"]) == longest


# --- what is refused ------------------------------------------------------------------------------------------------


def rank_file(path: Path, change) -> Path:
    tokens = [bytes([b]) for b in range(N_BYTES)] + [b"ab", b"abc"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    path.write_text("\n".join(change(lines)) + "\n")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:100] + lines[101:], "but rank 100 is missing"),
        (lambda lines: lines[1:], "but rank 0 is missing"),
        (lambda lines: [*lines, "eA== 3"], "line 259: rank 3 appears twice"),
        (lambda lines: [*lines, "eA== 258"], "has a lower rank already"),
        (lambda lines: [*lines, "eHl6eg== 258"], "'?xyzz'?.* is no merge of two"),
        (lambda lines: [*lines, "e$== 258"], "line 259, is not a token in base64"),
        (lambda lines: [*lines, "eHl6"], "line 259, is not a token in base64"),
        (lambda lines: lines[:50], "each of the 256 byte values once"),
        (lambda lines: [], "each of the 256 byte values once"),
    ],
)
def test_a_broken_rank_file_is_refused(tmp_path: Path, change, message: str) -> None:
    path = rank_file(tmp_path / "ranks.tiktoken", change)
    with pytest.raises(TokenizerError, match=message):
        load_tiktoken(path, SPLIT_PATTERN)


def test_a_rank_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="cannot read"):
        load_tiktoken(tmp_path / "none", SPLIT_PATTERN)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenizerError, match="not text in UTF-8"):
        load_tiktoken(tmp_path / "binary", SPLIT_PATTERN)


def set_in(*keys: str | int):
    *path, last, value = keys

    def change(document: dict) -> None:
        for key in path:
            document = document[key]
        document[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("model", "type", "Unigram"), "its model is Unigram"),
        (set_in("model", "dropout", 0.1), "has a dropout"),
        (set_in("normalizer", {"type": "NFC"}), r"normalizes text \(NFC\)"),
        (set_in("pre_tokenizer", {"type": "Whitespace"}), "splits text by Whitespace"),
        (set_in("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}), "adds a space before"),
        (set_in("pre_tokenizer", "pretokenizers", 0, "pattern", {"Regex": r"\d{1,3}+|."}), "repeats a range"),
        (set_in("model", "vocab", {"a": 0, "b": 2}), "without gaps"),
        (set_in("model", "merges", []), "merges do not produce its tokens"),
        (set_in("model", {}), "not a tokenizer.json: it lacks 'vocab'"),
        (set_in("model", None), "not a tokenizer.json: its model is not an object"),
        (set_in("model", "vocab", []), "not a tokenizer.json: its model.vocab is not an object"),
        (set_in("model", "merges", {}), "not a tokenizer.json: its model.merges is not a list"),
        (set_in("pre_tokenizer", None), "not a tokenizer.json: its pre_tokenizer is not an object"),
        (set_in("added_tokens", [3]), "not a tokenizer.json: one of its parts has another type than"),
    ],
)
def test_a_tokenizer_json_that_cannot_be_exact_is_refused(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    save_hugging_face(Tokenizer(SPLIT_PATTERN, [(97, 98)]), path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=message):
        load_hugging_face(path)


def test_what_other_files_cannot_say_is_not_written(tmp_path: Path) -> None:
    twice = Tokenizer(SPLIT_PATTERN, [(97, 98), (98, 99), (256, 99), (97, 257)])
    for save in (save_tiktoken, save_hugging_face):
        with pytest.raises(TokenizerError, match=r"b'abc'|lower rank already"):
            save(twice, tmp_path / "out")
    unreached = Tokenizer(SPLIT_PATTERN, [(98, 99), (97, 98), (257, 99)])  # a + bc comes before ab + c
    with pytest.raises(TokenizerError, match="result from other merges"):
        save_hugging_face(unreached, tmp_path / "out")
    with pytest.raises(TokenizerError, match="possessive range"):
        save_hugging_face(Tokenizer(r"\d{1,4}+|\D", []), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(TokenizerError, match="no tokenizer can have these tokens"):
        from_tokens([b"a"], SPLIT_PATTERN)


# --- files that were damaged ----------------------------------------------------------------------------------------


FIRST_FORMAT = ("format", "pattern", "merges", "special_tokens", "vocab_size")
OTHER_VALUES = [
    b"null",
    b"true",
    b"-1",
    b"0",
    b"98",
    b"257",
    b"268",
    b"1e999",
    b"4294967296",
    b"9" * 5_000,
    b"[]",
    b"{}",
]
OTHER_VALUES += [b'""', b'"a"', b'"a b"', rb'"\\s+(?!\\S)|."', b'"a++b"', rb'"\ud800"', b"[" * 99_999]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Values exchanged for others, and bytes changed, cut out or repeated."""
    for _ in range(rng.randint(1, 3)):
        values = [m.span() for m in re.finditer(rb'-?\d+|"[^"]*"|true|false|null', content)]
        a, b = sorted(rng.choices(range(len(content) + 1), k=2))
        b = min(b, a + rng.choice([1, 1, 4, 40]))
        new = rng.choice([rng.randbytes(b - a), content[a:b] * 2, b"", bytes(rng.choices(b'0123456789",:[]{}', k=2))])
        if values and rng.random() < 0.7:
            (a, b), new = rng.choice(values), rng.choice(OTHER_VALUES)
        content = content[:a] + new + content[b:]
    return content


@pytest.mark.parametrize("kind", ["own", "tiktoken", "hugging_face"])
def test_a_damaged_file_is_a_tokenizer_or_an_error(tmp_path: Path, kind: str) -> None:
    """`AQUARAT_DAMAGED_FILES` says how many are tried."""
    save, load = {
        "own": (Tokenizer.save, Tokenizer.load),
        "tiktoken": (save_tiktoken, lambda path: load_tiktoken(path, SPLIT_PATTERN, SPECIAL_TOKENS)),
        "hugging_face": (save_hugging_face, load_hugging_face),
    }[kind]
    path, rng, loaded = tmp_path / "file", random.Random(11), 0
    save(Tokenizer(SPLIT_PATTERN, [(97, 98), (256, 99), (256, 256)]), path)
    if kind == "own":
        # The first format has no hash over its content, which would find all damage.
        document = json.loads(path.read_text()) | {"format": 1}
        path.write_text(json.dumps({name: document[name] for name in FIRST_FORMAT}))
    content, text = path.read_bytes(), "ab abc <|bos|> é\n"
    n = int(os.environ.get("AQUARAT_DAMAGED_FILES", "150"))
    for _ in range(n):
        path.write_bytes(damaged(content, rng))
        try:
            tokenizer = load(path)
        except TokenizerError:
            continue
        assert tokenizer.decode(tokenizer.encode(text)) == text
        loaded += 1
    # Some damage leaves another tokenizer; but every line of a rank file is needed as it is.
    assert loaded < n and (loaded > 0 or kind == "tiktoken")
