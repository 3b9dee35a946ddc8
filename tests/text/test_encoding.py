"""What the tokenizer gives beside lists of ids: arrays, files, offsets, streams; special tokens, bytes, processes."""

from __future__ import annotations

import _thread
import itertools
import multiprocessing
import pickle
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rustbpe_py
import tiktoken

from aquarat_core.config import SPLIT_PATTERN, TokenizerConfig
from aquarat_core.text.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from tests.patience import limit

TEXTS = ["How many apples? 12 + 3 = 15.", "", "naïve 漢字 🙂\r\n\n  x", "  spaces   and\ttabs \n", "don't DON'T"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS * 50 + ["apples and spaces and tabs " * 30], TokenizerConfig(vocab_size=400))


def reference(tokenizer: Tokenizer) -> tiktoken.Encoding:
    n_ordinary = tokenizer.vocab_size - len(tokenizer.special_tokens)
    ranks = {tokenizer.token(id_): id_ for id_ in range(n_ordinary)}
    return tiktoken.Encoding(
        "reference", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=tokenizer.special_ids
    )


# --- arrays and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_more", [0, 70_000], ids=["uint16", "uint32"])
def test_arrays_hold_what_lists_hold(tokenizer: Tokenizer, n_more: int) -> None:
    ids = tokenizer.special_ids | ({"<|far|>": n_more} if n_more else {})
    tok = Tokenizer(tokenizer.pattern, tokenizer.merges, ids)
    dtype = np.uint32 if n_more else np.uint16
    for text in TEXTS:
        array = tok.encode_to_numpy(text)
        assert (array.dtype, array.tolist(), tok.count(text)) == (dtype, tok.encode(text), len(array))
        out = np.full(100, 9, dtype=dtype)
        assert tok.encode_into(text, out) == len(array)
        assert out.tolist() == array.tolist() + [9] * (100 - len(array))
    ids, offsets = tok.encode_batch_to_numpy(TEXTS, threads=2)
    assert (ids.dtype, offsets.dtype) == (dtype, np.int64)
    assert [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)] == tok.encode_batch(TEXTS)
    expected = ids.tolist()
    del tok
    ids[0] = 7  # the caller's own, whatever became of the tokenizer
    assert ids.tolist() == [7, *expected[1:]]


def test_out_must_fit(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="out has room for 3"):
        tokenizer.encode_into(TEXTS[0], np.zeros(3, dtype=np.uint16))
    with pytest.raises(TypeError, match="uint16 or uint32"):
        tokenizer.encode_into("x", np.zeros(9, dtype=np.float32))
    frozen = np.zeros(9, dtype=np.uint16)
    frozen.flags.writeable = False
    with pytest.raises((ValueError, BufferError), match=r"writ|read-only"):
        tokenizer.encode_into("x", frozen)
    with pytest.raises(ValueError, match="not contiguous"):
        tokenizer.encode_into("x", np.zeros(90, dtype=np.uint16)[::2])
    wide = Tokenizer(SPLIT_PATTERN, [], {"<|far|>": 70_000})
    with pytest.raises(ValueError, match="do not fit uint16"):
        wide.encode_into("x", np.zeros(9, dtype=np.uint16))


def test_a_special_token_may_stand_before_each_text(tokenizer: Tokenizer) -> None:
    ids, offsets = tokenizer.encode_batch_to_numpy(TEXTS, prepend="<|bos|>")
    bos = tokenizer.special("<|bos|>")
    assert ids[offsets[:-1]].tolist() == [bos] * len(TEXTS)
    assert ids[offsets[1] : offsets[2]].tolist() == [bos]  # of the empty text
    assert (ids == bos).sum() == len(TEXTS)


def test_arrow_arrays_are_texts(tokenizer: Tokenizer) -> None:
    expected = tokenizer.encode_batch(TEXTS)
    for kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        array = pa.array([t.encode() for t in ["no", *TEXTS]], type=pa.binary()).cast(kind)
        for texts in (array[1:], pa.chunked_array([array[1:3], array[3:]]), iter([array[1:3], *TEXTS[2:]])):
            assert tokenizer.encode_batch(texts) == expected
    assert tokenizer.encode_batch(pa.array(["a", None, "b"])) == [[97], [98]]
    assert tokenizer.encode_batch(pa.array([], type=pa.string())) == []
    with pytest.raises(TypeError, match="int64 holds no texts"):
        tokenizer.encode_batch(pa.array([1, 2]))


def test_a_file_of_ids_appears_whole_or_not_at_all(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "ids.bin"
    offsets = tokenizer.encode_to_file(iter(TEXTS), path, prepend="<|bos|>")
    expected_ids, expected_offsets = tokenizer.encode_batch_to_numpy(TEXTS, prepend="<|bos|>")
    assert np.memmap(path, dtype=np.uint16, mode="r").tolist() == expected_ids.tolist()
    assert offsets.tolist() == expected_offsets.tolist()
    with pytest.raises(ValueError, match="not valid Unicode"):
        tokenizer.encode_to_file(["fine", "a\udc80"], tmp_path / "broken.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["ids.bin"]


def test_a_long_text_on_several_threads_is_the_same(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    long = "".join(rng.choices([*TEXTS, "\n", "a\nb", "\n\n  ", "漢\n"], k=150_000))
    assert len(long) > 1_000_000
    ids, _ = tokenizer.encode_batch_to_numpy([long, "x"], threads=3)
    assert ids.tolist() == [*tokenizer.encode(long), ord("x")]


# --- special tokens -------------------------------------------------------------------------------------------------


def test_special_tokens_are_allowed_as_tiktoken_allows_them(tokenizer: Tokenizer) -> None:
    text = "hi<|bos|>there <|user_end|><|user_start|> x<|bos|"
    theirs = reference(tokenizer)
    for allowed in ("all", {"<|bos|>"}, {"<|user_end|>", "<|user_start|>"}, set()):
        expected = theirs.encode(text, allowed_special=allowed, disallowed_special=())
        assert tokenizer.encode(text, allowed) == expected
        assert tokenizer.encode_batch([text], allowed_special=allowed) == [expected]
        assert tokenizer.encode_to_numpy(text, allowed).tolist() == expected
        assert tokenizer.count(text, allowed) == len(expected)
    assert max(tokenizer.encode(text)) < tokenizer.special("<|bos|>")
    with pytest.raises(ValueError, match="is no special token"):
        tokenizer.encode(text, {"<|eos|>"})
    with pytest.raises(ValueError, match='"all" or a set of names'):
        tokenizer.encode(text, "<|bos|>")


def test_special_tokens_cut_the_training_text_and_are_not_learned() -> None:
    named, apart = "ab<|bos|>ab", ["ab", "ab"]
    config = TokenizerConfig(vocab_size=300)
    assert train_tokenizer([named] * 9, config).merges == train_tokenizer(apart * 9, config).merges == ((97, 98),)


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_bytes_that_are_no_utf8_come_back(tokenizer: Tokenizer) -> None:
    rng = random.Random(2)
    for text in TEXTS:
        assert tokenizer.encode(text.encode()) == tokenizer.encode(text)
        assert tokenizer.encode(bytearray(text.encode())) == tokenizer.encode(text)
    for _ in range(300):
        raw = b"".join(rng.choice([rng.randbytes(3), b"apples ", "漢".encode()[:2], b"\xff"]) for _ in range(9))
        assert tokenizer.decode_bytes(tokenizer.encode(raw)) == raw
    assert tokenizer.encode(b"a\xff b") == [97, 0xFF, *tokenizer.encode(" b")]


def test_a_token_has_bytes_and_bytes_a_token(tokenizer: Tokenizer) -> None:
    n_ordinary = tokenizer.vocab_size - len(SPECIAL_TOKENS)
    assert [tokenizer.token_id(tokenizer.token(i)) for i in range(n_ordinary)] == list(range(n_ordinary))
    assert tokenizer.token(n_ordinary) == b"<|bos|>"
    for nothing in (b"", b"<|bos|>", b"no such token", b"q" * 99):
        assert tokenizer.token_id(nothing) is None


# --- ids to text ----------------------------------------------------------------------------------------------------


def test_ids_come_as_lists_and_as_arrays(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text)
        for form in (ids, tuple(ids), iter(ids), *(np.array(ids).astype(d) for d in ("u2", "u4", "i8", "i4", "u1"))):
            if isinstance(form, np.ndarray) and form.tolist() != ids:
                continue  # too narrow for these ids
            assert tokenizer.decode(form) == text
    assert tokenizer.decode_batch([tokenizer.encode(t) for t in TEXTS]) == TEXTS
    with pytest.raises(ValueError, match="-1 is no token id"):
        tokenizer.decode(np.array([-1]))


def test_offsets_equal_tiktoken(tokenizer: Tokenizer) -> None:
    theirs = reference(tokenizer)
    for text in [*TEXTS, "".join(TEXTS), "é漢🙂" * 5]:
        ids = tokenizer.encode(text)
        assert (text, tokenizer.offsets(ids)) == theirs.decode_with_offsets(ids)


def test_a_stream_never_splits_a_character(tokenizer: Tokenizer) -> None:
    text = "".join(TEXTS) + "🙂é"
    stream = tokenizer.stream()
    parts = [stream.push(id_) for id_ in tokenizer.encode(text)]
    assert "".join(parts) == text and stream.finish() == ""
    assert "\ufffd" not in "".join(parts)
    assert [stream.push(b) for b in "漢".encode()[:2]] == ["", ""] and stream.finish() == "\ufffd"
    with pytest.raises(ValueError, match="not in the vocabulary"):
        stream.push(tokenizer.vocab_size)


# --- threads and processes ------------------------------------------------------------------------------------------


def test_a_pickled_tokenizer_is_the_same(tokenizer: Tokenizer) -> None:
    back = pickle.loads(pickle.dumps(tokenizer))
    assert (back.sha256, back.encode_batch(TEXTS)) == (tokenizer.sha256, tokenizer.encode_batch(TEXTS))
    encoder = pickle.loads(pickle.dumps(tokenizer._encoder))
    assert encoder.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def _encode_all(tokenizer: Tokenizer, queue: multiprocessing.Queue) -> None:
    queue.put(tokenizer.encode_batch(TEXTS * 2_000, threads=2)[-len(TEXTS) :])


def test_a_fork_while_others_encode_is_harmless(tokenizer: Tokenizer) -> None:
    stop = threading.Event()

    def keep_encoding() -> None:
        while not stop.is_set():
            tokenizer.encode_batch(TEXTS * 500)

    thread = threading.Thread(target=keep_encoding)
    thread.start()
    try:
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        for _ in range(3):
            child = context.Process(target=_encode_all, args=(tokenizer, queue))
            child.start()
            assert queue.get(timeout=limit(60)) == tokenizer.encode_batch(TEXTS)
            child.join(60)
            assert child.exitcode == 0
    finally:
        stop.set()
        thread.join()


def test_threads_share_a_tokenizer(tokenizer: Tokenizer) -> None:
    expected, wrong = tokenizer.encode_batch(TEXTS), []

    def work() -> None:
        wrong.extend(1 for _ in range(200) if [tokenizer.encode(t) for t in TEXTS] != expected)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


# --- counting -------------------------------------------------------------------------------------------------------


def test_counts_of_parts_add_up_to_the_counts_of_the_whole(tmp_path: Path) -> None:
    texts = TEXTS * 20 + ["a long word: " + "abcdefgh" * 9]
    whole = rustbpe_py.PieceCounter(SPLIT_PATTERN, threads=1)
    whole.add(texts)
    parts = [rustbpe_py.PieceCounter(SPLIT_PATTERN, threads=2) for _ in range(2)]
    parts[0].add(iter(texts[:31]))
    parts[1].add([pa.array(texts[31:60]), *texts[60:]])
    saved = [part.to_bytes() for part in parts]
    total = rustbpe_py.PieceCounter.from_bytes(saved[0])
    total.absorb(rustbpe_py.PieceCounter.from_bytes(saved[1]))
    assert total.to_bytes() == whole.to_bytes()
    assert len(total) == len(whole) and total.train(400) == whole.train(400)
    assert total.train(400) == rustbpe_py.train(texts, 400, SPLIT_PATTERN)
    with pytest.raises(ValueError, match="different patterns"):
        total.absorb(rustbpe_py.PieceCounter("[a-z]+"))
    with pytest.raises(ValueError, match="cut off or was changed"):
        rustbpe_py.PieceCounter.from_bytes(saved[0][:-3])


def test_the_top_pieces_are_the_commonest() -> None:
    counter = rustbpe_py.PieceCounter(SPLIT_PATTERN)
    counter.add(["the cat the dog the end"])
    assert counter.top(2) == [(b" the", 2), (b" cat", 1)]
    assert counter.top(9, min_bytes=3, max_bytes=3) == [(b"the", 1)]


THREADS = pytest.mark.parametrize("threads", [1, 2, 3, 4])


@pytest.fixture(scope="module")
def words() -> list[str]:
    """Several batches of text with many distinct words, each in a few places."""
    letters = str.maketrans("0123456789", "ghijklmnop")
    texts = [
        " ".join(f"{n:x}" for n in range(i, i + 6_000)).translate(letters) + "<|x|>é" for i in range(0, 120_000, 600)
    ]
    assert sum(map(len, texts)) > 6_000_000
    return texts


@THREADS
def test_the_counts_do_not_depend_on_the_threads(words: list[str], threads: int) -> None:
    alone = rustbpe_py.PieceCounter(SPLIT_PATTERN, ["<|x|>"], threads=1)
    for text in words:
        alone.add([text])
    counter = rustbpe_py.PieceCounter(SPLIT_PATTERN, ["<|x|>"], threads=threads)
    counter.add(iter(words[:30]))
    counter.add([pa.array(words[30:60]), *words[60:]])
    assert counter.to_bytes() == alone.to_bytes()


@THREADS
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in Linux's /proc")
def test_the_calling_thread_is_one_of_those_that_count(words: list[str], threads: int) -> None:
    def running() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    # Those of the test before may be listed a moment longer.
    before, seen = min(time.sleep(0.001) or running() for _ in range(20)), []
    counter = rustbpe_py.PieceCounter(SPLIT_PATTERN, threads=threads)
    counter.add(text for text in words if seen.append(running()) is None)
    assert max(seen) == before + threads - 1


@THREADS
def test_an_error_of_the_iterator_leaves_the_counts_as_they_were(words: list[str], threads: int) -> None:
    def broken() -> Iterator[str]:
        yield from words
        raise OSError("the disk is gone")

    counter = rustbpe_py.PieceCounter(SPLIT_PATTERN, threads=threads)
    counter.add(words[:1])
    before = counter.to_bytes()
    with pytest.raises(OSError, match="the disk is gone"):
        counter.add(broken())
    with pytest.raises(TypeError, match="expected str or bytes, got int"):
        counter.add([*words, 7])
    assert counter.to_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in Linux's /proc")
def test_the_merges_do_not_depend_on_the_threads(words: list[str]) -> None:
    def threads_of_merging(threads: int) -> int:
        seen = []
        (counter := rustbpe_py.PieceCounter(SPLIT_PATTERN, threads=threads)).add(distinct)
        merges.append(counter.train(900, lambda *_: seen.append(len(list(Path("/proc/self/task").iterdir())))))
        return max(seen)

    # Enough distinct pieces for a part of them on each of three threads.
    distinct, merges = [text + text.title() + text.upper() for text in words[::10]], []
    alone, several = threads_of_merging(1), threads_of_merging(3)
    assert several == alone + 2
    assert merges[0] == merges[1] and len(merges[0]) == 900 - 256


@THREADS
def test_counting_is_interrupted_between_batches(words: list[str], threads: int) -> None:
    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        rustbpe_py.PieceCounter(SPLIT_PATTERN, threads=threads).add(itertools.repeat(words[0], 50_000))
    timer.join()


@pytest.mark.parametrize("pattern", [SPLIT_PATTERN, r"\p{L}+|\s+(?!\S)|\s+|."], ids=["cut", "whole"])
def test_a_file_counts_as_its_text(tmp_path: Path, pattern: str) -> None:
    rng = random.Random(3)
    text = "".join(rng.choices([*TEXTS, "\n", "a\nb", "\n\n  ", "漢\n"], k=900_000))
    assert len(text.encode()) > 9_000_000  # several blocks
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    of_file, of_text = rustbpe_py.PieceCounter(pattern), rustbpe_py.PieceCounter(pattern)
    of_file.add_file(path)
    of_text.add([text])
    assert of_file.to_bytes() == of_text.to_bytes()
    with pytest.raises(ValueError, match=r"cannot read .*none\.txt"):
        of_file.add_file(tmp_path / "none.txt")
