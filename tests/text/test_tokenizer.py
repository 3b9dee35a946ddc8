"""The tokenizer against independent implementations: merges against `rustbpe`, ids against `tiktoken`."""

from __future__ import annotations

import json
import random
import sysconfig
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rustbpe
import rustbpe_py
import tiktoken

from aquarat_core.config import SPLIT_PATTERN, TokenizerConfig
from aquarat_core.text.formats import load_hugging_face, load_tiktoken
from aquarat_core.text.tokenizer import N_BYTES, SPECIAL_TOKENS, Tokenizer, TokenizerError, train_tokenizer

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
OTHER_PATTERN = r"\p{Lu}?\p{Ll}++|\p{N}{3}|\s+(?!\S)|\s|."
"""Of no known family, so that it runs on an automaton; every character is matched."""

MILLION = 1_000_000
PATHOLOGICAL = {
    "a": "a" * MILLION,
    "spaces before a word": " " * MILLION + "x",
    "newlines": "\n" * MILLION,
    "carets": "^" * MILLION,
    "lines of spaces": (" " * 63 + "\n") * (MILLION // 64),
    "CJK": "漢字仮名" * (MILLION // 12),
    "emoji": "🙂🚀" * (MILLION // 8),
    "letters": "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=MILLION)),
}


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """About 4 MB of the standard library's sources."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) + sorted(
        Path(sysconfig.get_path("stdlib")).glob("[a-e]*/*.py")
    )
    texts, size = [], 0
    for file in files:
        texts.append(file.read_text(encoding="utf-8", errors="replace"))
        size += len(texts[-1])
        if size > 4_000_000:
            return texts
    raise AssertionError(f"the standard library has only {size} characters")


@pytest.fixture(scope="module")
def tokenizer(corpus: list[str]) -> Tokenizer:
    return train(corpus[::2], 4_096)


def train(texts: list[str], n_ordinary: int, pattern: str = SPLIT_PATTERN) -> Tokenizer:
    config = TokenizerConfig(
        vocab_size=n_ordinary + len(SPECIAL_TOKENS), pattern=pattern, max_chars=10**9, max_chars_per_document=10**9
    )
    return train_tokenizer(texts, config)


def ordinary_tokens(tokenizer: Tokenizer) -> list[bytes]:
    tokens = [bytes([byte]) for byte in range(N_BYTES)]
    for left, right in tokenizer.merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


def oracle(tokenizer: Tokenizer) -> tiktoken.Encoding:
    ranks: dict[bytes, int] = {}
    for id_, token in enumerate(ordinary_tokens(tokenizer)):
        ranks.setdefault(token, id_)
    return tiktoken.Encoding("oracle", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={})


def random_texts(n: int, seed: int) -> list[str]:
    """Unicode from every plane mixed with what the split pattern cares about."""
    rng = random.Random(seed)
    whitespace = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028"]
    special = ["'s", "'LL", "'\u017f", *whitespace, "12345", "½", "x", "the", "é"]
    planes = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]

    def part() -> str:
        return rng.choice(special) if rng.random() < 0.6 else chr(rng.randint(*rng.choice(planes)))

    return ["".join(part() for _ in range(rng.randint(0, 80))) for _ in range(n)]


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_ordinary", "pattern"),
    [(1_000, SPLIT_PATTERN), (6_000, SPLIT_PATTERN), (2_000, GPT2_PATTERN)],
    ids=["1000", "6000", "gpt2"],
)
def test_merges_equal_rustbpe(corpus: list[str], n_ordinary: int, pattern: str) -> None:
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter(corpus), n_ordinary, pattern=pattern)
    expected = [bytes(token) for token, _ in sorted(theirs.get_mergeable_ranks(), key=lambda ranked: ranked[1])]
    assert ordinary_tokens(train(corpus, n_ordinary, pattern)) == expected


def test_merges_do_not_depend_on_the_order_of_the_texts(corpus: list[str]) -> None:
    assert train(corpus[:40], 1_000).merges == train(corpus[:40][::-1], 1_000).merges


def test_budget_counts_the_first_characters_of_each_text_and_of_all() -> None:
    texts = ["aaaa bbbb zzzz", "cccc dddd", "eeee ffff"]
    config = TokenizerConfig(vocab_size=400, max_chars_per_document=9, max_chars=14)
    assert train_tokenizer(texts, config).merges == train(["aaaa bbbb", "cccc "], 391).merges


@pytest.mark.parametrize("max_chars", [14, 18, 22, 23, 1_000])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_arrow_arrays_count_as_their_texts_do(max_chars: int, kind: pa.DataType) -> None:
    texts = ["aaaa bbbb zzzz", None, "ééééééééé dddd", "eeee ffff", ""]
    config = TokenizerConfig(vocab_size=400, max_chars_per_document=9, max_chars=max_chars)
    arrays = [pa.array(texts[:2], kind), pa.array(texts, kind)[2:4], pa.array(texts, kind)[4:], pa.array([], kind)]
    mixed = train_tokenizer([*arrays, "gggg hhhh"], config)
    alone = train_tokenizer([text for text in texts if text is not None] + ["gggg hhhh"], config)
    assert mixed.merges == alone.merges
    assert mixed.frequent_pieces == alone.frequent_pieces


def test_a_small_corpus_gives_a_smaller_vocabulary() -> None:
    tokenizer = train(["abc abc"], 1_000)
    assert ordinary_tokens(tokenizer)[N_BYTES:] == [b"ab", b"abc", b" abc"]
    assert tokenizer.vocab_size == N_BYTES + 3 + len(SPECIAL_TOKENS)
    assert [tokenizer.special(name) for name in SPECIAL_TOKENS] == list(range(259, 268))


def test_progress_reports_characters_then_merges() -> None:
    calls: list[tuple[int, int, str]] = []
    words = random.Random(5)
    text = " ".join("".join(words.choices("abcdef", k=6)) for _ in range(200_000))
    config = TokenizerConfig(vocab_size=400, max_chars=1_300_000, max_chars_per_document=10**9)
    train_tokenizer([text], config, lambda *call: calls.append(call))
    n_merges = 400 - N_BYTES - len(SPECIAL_TOKENS)
    assert calls == [
        (1_300_000, 1_300_000, "characters"),
        (64, n_merges, "merges"),
        (128, n_merges, "merges"),
        (n_merges, n_merges, "merges"),
    ]


def test_an_error_in_progress_stops_the_training(corpus: list[str]) -> None:
    def progress(done: int, total: int, unit: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(corpus[:5], TokenizerConfig(vocab_size=1_024), progress)


def test_training_takes_a_document_of_a_million_spaces() -> None:
    tokenizer = train(["some words " + " " * MILLION + "x", "some words"], 300)
    assert tokenizer.decode(tokenizer.encode("some  words   ")) == "some  words   "


@pytest.mark.parametrize(
    ("texts", "vocab_size", "pattern", "message"),
    [
        (["text"], 255, SPLIT_PATTERN, "vocab_size 255"),
        (["text"], -1, SPLIT_PATTERN, "vocab_size -1"),
        (["text"], 300, "([", "not a valid regular expression"),
        ([], 300, SPLIT_PATTERN, "no text to train on"),
        (["", ""], 300, SPLIT_PATTERN, "no text to train on"),
        (["ok", "lone \ud800 surrogate"], 300, SPLIT_PATTERN, "not valid Unicode"),
        (["text"], 300, r"\p{L}+(?!-)|.", "look-around"),
        (["text"], 300, r"\w++\d|.", r"cannot be matched without backtracking.*the possessive \\w\+\+"),
    ],
)
def test_what_cannot_be_trained_is_a_value_error(texts: list[str], vocab_size: int, pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rustbpe_py.train(texts, vocab_size, pattern)


def test_a_vocabulary_without_room_for_the_special_tokens_is_refused() -> None:
    config = TokenizerConfig.model_construct(vocab_size=N_BYTES + len(SPECIAL_TOKENS) - 1)
    with pytest.raises(TokenizerError, match=r"vocab_size 264 is too small.* take 265 ids"):
        train_tokenizer(["text"], config)


# --- encoding -------------------------------------------------------------------------------------------------------


def test_ids_equal_tiktoken_on_unseen_source(corpus: list[str], tokenizer: Tokenizer) -> None:
    unseen = corpus[1::2]
    expected = oracle(tokenizer).encode_ordinary_batch(unseen, num_threads=1)
    assert tokenizer.encode_batch(unseen) == expected
    assert [tokenizer.encode(text) for text in unseen[:50]] == expected[:50]


@pytest.mark.parametrize(
    "pattern",
    [SPLIT_PATTERN, SPLIT_PATTERN.replace("{1,2}", "{1,3}"), GPT2_PATTERN, OTHER_PATTERN],
    ids=["own", "gpt4", "gpt2", "other"],
)
def test_ids_equal_tiktoken_on_random_unicode(corpus: list[str], pattern: str) -> None:
    texts = random_texts(3_000, seed=2)
    tokenizer = train(corpus[:20] + texts[:1_000], 2_000, pattern)
    reference = oracle(tokenizer)
    expected = [reference.encode_ordinary(text) for text in texts]
    assert [tokenizer.encode(text) for text in texts] == expected
    assert [tokenizer.decode(ids) for ids in expected] == texts


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_pathological_input_is_exact_and_bounded(tokenizer: Tokenizer, name: str) -> None:
    text = PATHOLOGICAL[name]
    start = time.process_time()
    ids = tokenizer.encode(text)
    assert time.process_time() - start < 5  # quadratic work would take minutes
    assert tokenizer.decode(ids) == text
    if name != "spaces before a word":  # on which tiktoken panics
        assert ids == oracle(tokenizer).encode_ordinary(text)


def test_text_that_the_pattern_does_not_match_is_kept() -> None:
    tokenizer = Tokenizer("[a-z]+", [(ord("a"), ord("b"))])
    assert tokenizer.encode("1ab2") == [ord("1"), N_BYTES, ord("2")]


def test_text_never_forges_a_special_token(tokenizer: Tokenizer) -> None:
    forged = "".join(SPECIAL_TOKENS)
    trained_on_it = train(["x" + name[:-1] for name in SPECIAL_TOKENS] * 100, 600)
    for t in (tokenizer, trained_on_it):
        for text in (*SPECIAL_TOKENS, forged, f"hi{forged} there"):
            ids = t.encode(text)
            assert max(ids) < t.special("<|bos|>")
            assert t.encode_batch([text]) == [ids]
            assert t.decode(ids) == text
        assert t.decode([t.special("<|bos|>"), *t.encode("hi"), t.special("<|user_end|>")]) == "<|bos|>hi<|user_end|>"


def test_special_tokens_are_the_last_ids_in_their_order(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 4_096 + 9
    assert [tokenizer.special(name) for name in SPECIAL_TOKENS] == list(range(4_096, 4_105))
    with pytest.raises(TokenizerError, match=r"'<\|eos\|>' is not a special token"):
        tokenizer.special("<|eos|>")


def test_token_bytes_add_up_to_the_text(tokenizer: Tokenizer, corpus: list[str]) -> None:
    lengths = tokenizer.token_bytes()
    assert lengths.shape == (tokenizer.vocab_size,) and lengths.dtype == "int32"
    for text in (corpus[1], "naïve 漢字 🙂"):
        assert lengths[tokenizer.encode(text)].sum() == len(text.encode())
    assert lengths[-len(SPECIAL_TOKENS) :].tolist() == [0] * len(SPECIAL_TOKENS)


def test_part_of_a_character_decodes_to_a_replacement(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([0xE6, 0xBC]) == "\ufffd"


@pytest.mark.parametrize("bad", [4_105, 2**31, 2**40, -1])
def test_an_unknown_id_is_a_value_error(tokenizer: Tokenizer, bad: int) -> None:
    with pytest.raises(ValueError, match=f"{bad} is"):
        tokenizer.decode([65, bad])


def test_a_list_may_mix_kinds_of_integers(tokenizer: Tokenizer) -> None:
    class Id(int):
        pass

    ids = tokenizer.encode("the whole numbers, " * 20)
    mixed = [(int, Id, np.int64, np.uint16)[at % 4](id_) for at, id_ in enumerate(ids)]
    for n in (0, 1, 31, 32, 33, len(ids)):
        assert tokenizer.decode(mixed[:n]) == tokenizer.decode(ids[:n])
        for no_id in ("a", None, 1.0):
            with pytest.raises(TypeError):
                tokenizer.decode([*ids[:n], no_id, *ids])


def test_what_cannot_be_encoded_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="not valid Unicode"):
        tokenizer.encode("a\udc80")
    with pytest.raises(ValueError, match="not valid Unicode"):
        tokenizer.encode_batch(["fine", "a\udc80"])
    with pytest.raises(TypeError, match="expected str or bytes, got int"):
        tokenizer.encode_batch([7])


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a.json")
    loaded = Tokenizer.load(tmp_path / "a.json")
    assert (loaded.pattern, loaded.merges, loaded.special_tokens) == (
        tokenizer.pattern,
        tokenizer.merges,
        SPECIAL_TOKENS,
    )
    assert loaded.encode("def f(x): return x") == tokenizer.encode("def f(x): return x")
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "format 3, this version reads formats 1 and 2"),
        ({"merges": [[97, 300]]}, "merge 0 joins id 300"),
        ({"merges": [[97]]}, "not a usable tokenizer"),
        ({"merges": [[97, -1]]}, "not a usable tokenizer"),
        ({"merges": [[97, "b"]]}, "not a usable tokenizer"),
        ({"frequent_pieces": [7]}, "not a usable tokenizer"),
        ({"byte_order": "00"}, "order of the bytes"),
        ({"byte_order": "xy"}, "not a usable tokenizer"),
        ({"merges": [[97, 99]]}, "does not match its sha256"),
        ({"special_tokens": {"<|bos|>": 256}}, "from 257 on"),
        ({"merges": [[0, 0], *[[256 + i] * 2 for i in range(60)]]}, "tokens are longer than"),
        ({"pattern": "(["}, "not a valid regular expression"),
        ({"pattern": 7}, "not a usable tokenizer"),
        ({"special_tokens": ["<|bos|>", "<|bos|>"]}, "appears twice"),
        ({"vocab_size": 999}, "its vocab_size is 999, but it has 256 bytes, 1 merges and 9 special tokens"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(SPLIT_PATTERN, [(97, 98)]).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(TokenizerError, match=message) as error:
        Tokenizer.load(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(TokenizerError, match="No such file"):
        Tokenizer.load(path)
    contents = {"{": "not valid JSON", "[1]": "not an object with a format", '{"format": 1}': "lacks merges, pattern"}
    for content, message in contents.items():
        path.write_text(content)
        with pytest.raises(TokenizerError, match=message):
            Tokenizer.load(path)


def test_merges_that_double_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    """Twenty-six lines would spell a token of 64 MiB, forty of a terabyte."""
    merges, last = [], 97
    for number in range(40):
        merges.append([last, last])
        last = 256 + number
    document = {"format": 1, "pattern": SPLIT_PATTERN, "merges": merges, "special_tokens": {}, "vocab_size": 296}
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=r"with merge 20 the tokens are longer than 1,048,576 bytes each"):
        Tokenizer.load(tmp_path / "t.json")
    assert Tokenizer(SPLIT_PATTERN, merges[:10], ()).token(265) == b"a" * 1024


def test_a_file_that_is_too_long_for_a_tokenizer_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aquarat_core.text.tokenizer.MAX_FILE_BYTES", 1000)
    (tmp_path / "t.json").write_text("[" * 2000)
    for load in (Tokenizer.load, load_hugging_face, lambda path: load_tiktoken(path, SPLIT_PATTERN)):
        with pytest.raises(TokenizerError, match="is longer than 0 MiB, the maximum for a tokenizer file"):
            load(tmp_path / "t.json")
