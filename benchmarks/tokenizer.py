"""The tokenizer: training, encoding, decoding and hard inputs, beside the peers that are installed.

The corpus is made of this machine's documentation and libraries (`benchmarks/corpus.py`), and its hash is part of the
results' names. Peers are measured in turn with ours in the same run, so their ratios hold on a busy machine too:

- training runs in a process of its own, from a Python iterator over documents in memory, wall time, on both cores; its
  memory is that of further runs that read the documents from a file as they go: the peak above what was held before;
- what runs on one thread is measured in that thread's CPU time;
- `cold` encodings are of text that the encoder, made anew each time, has never seen; `warm` ones are its second pass.

gigabpe and gigatoken cannot split by our pattern: ours is given the one that they have.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rustbpe_py

from aquarat_core.config import SPLIT_PATTERN
from aquarat_core.data.tokens import write_shard
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.pretrain_tokens import encoded
from aquarat_core.text.compression import CL100K_PATTERN
from aquarat_core.text.formats import GPT2_PATTERN, ordinary_tokens, save_tiktoken
from aquarat_core.text.tokenizer import FREQUENT_PER_ID, Tokenizer
from benchmarks import corpus
from benchmarks.harness import Against, BenchError, Result, compare

VOCAB = 32_768
TRAIN_RUNS = 3
ENCODE_RUNS = 7
MILLION = 1_000_000


def run() -> list[Result]:
    """All measurements; `BenchError` where a peer's result differs from ours."""
    text = corpus.build()
    with tempfile.TemporaryDirectory() as folder:
        documents = Path(folder) / "train.parquet"
        text.save_train(documents)
        plain = Path(folder) / "train.txt"
        plain.write_text("\n".join(text.train), encoding="utf-8")
        megabytes = text.train_bytes / 1e6
        results = _training(documents, plain, megabytes)
    tokenizer = _train_here(text.train)
    results += _encoding(tokenizer, text.held_out) + _decoding(tokenizer, text.held_out) + _hard_inputs(tokenizer)
    named = Result(f"corpus {text.sha256[:12]}", "MB", (megabytes,))
    return [named, *results]


# --- training -------------------------------------------------------------------------------------------------------


def _training(documents: Path, plain: Path, megabytes: float) -> list[Result]:
    measured: dict[str, list[dict[str, float]]] = {}

    def speed(trainer: str, path: Path = documents) -> Callable[[], float]:
        def once() -> float:
            measured.setdefault(trainer, []).append(answer := _in_process(trainer, path))
            return megabytes / answer["seconds"]

        return once

    against_rustbpe = compare(
        "train 32k, 2 threads", "MB/s", speed("ours"), speed("rustbpe"), "rustbpe", runs=TRAIN_RUNS, goal="≥ 10"
    )
    first, second = measured["ours"][0], measured["rustbpe"][0]
    if first["merges"] != second["merges"]:
        raise BenchError("the merges differ from rustbpe's: a comparison of speed would mean nothing")
    memory = tuple(_in_process("ours-streamed", documents)["peak_mb"] for _ in range(TRAIN_RUNS))
    theirs = _in_process("rustbpe-streamed", documents)["peak_mb"]
    counting = compare(
        "count pieces, 2 threads", "MB/s", speed("count-2"), speed("count-1"), "1 thread", runs=TRAIN_RUNS, goal="≥ 1.5"
    )
    results = [
        against_rustbpe,
        Result("train 32k, peak memory", "MB", memory, Against("rustbpe", theirs), goal="≤ 416 MB"),
        counting,
    ]
    label, goal = "train 32k, GPT-2 pattern, 2 threads", "≥ 1"
    ours, theirs = speed("ours-gpt2"), speed("gigabpe", plain)
    results.append(compare(label, "MB/s", ours, theirs, "gigabpe", runs=TRAIN_RUNS, goal=goal))
    return results


def _in_process(trainer: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.tokenizer", trainer, str(path), str(VOCAB)]
    done = subprocess.run(command, cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise BenchError(f"training with {trainer} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _train_once(trainer: str, path: str, vocab_size: str) -> None:
    """In its own process: prints seconds, the memory it took, and a hash of the merges."""
    documents = _documents(trainer, path)
    before = _peak_mb()
    started = time.perf_counter()
    tokens = _TRAINERS[trainer](documents, path, int(vocab_size))
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mb": _peak_mb() - before, "merges": hash_of(tokens)}))


def _documents(trainer: str, path: str) -> Iterable[str]:
    if trainer.endswith("-streamed"):
        batches = pq.ParquetFile(path).iter_batches(corpus.DOCUMENTS_PER_GROUP, columns=["text"])
        return (text for batch in batches for text in batch.column(0).to_pylist())
    return () if trainer == "gigabpe" else pq.read_table(path)["text"].to_pylist()


Trainer = Callable[[Iterable[str], str, int], list[bytes]]
"""Takes the documents, the file they are in and the size; returns the tokens, where they are to be compared."""


def _ours(pattern: str) -> Trainer:
    def train(documents: Iterable[str], _: str, vocab_size: int) -> list[bytes]:
        merges = rustbpe_py.train(iter(documents), vocab_size, pattern, threads=2)
        return ordinary_tokens(Tokenizer(pattern, merges))

    return train


def _count(threads: int) -> Trainer:
    def count(documents: Iterable[str], _: str, __: int) -> list[bytes]:
        counter = rustbpe_py.PieceCounter(SPLIT_PATTERN, threads=threads)
        counter.add(iter(documents))
        return []

    return count


def _rustbpe(documents: Iterable[str], _: str, vocab_size: int) -> list[bytes]:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(documents), vocab_size, pattern=SPLIT_PATTERN)
    return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda ranked: ranked[1])]


def _gigabpe(_: Iterable[str], path: str, vocab_size: int) -> list[bytes]:
    import gigabpe

    gigabpe.train_bpe([path], vocab_size, threads=2)
    return []


_TRAINERS = {
    "ours": _ours(SPLIT_PATTERN),
    "ours-gpt2": _ours(GPT2_PATTERN),
    "count-1": _count(1),
    "count-2": _count(2),
    "rustbpe": _rustbpe,
    "gigabpe": _gigabpe,
    "ours-streamed": _ours(SPLIT_PATTERN),
    "rustbpe-streamed": _rustbpe,
}


def hash_of(tokens: Sequence[bytes]) -> str:
    """Of the tokens in their order."""
    digest = hashlib.sha256()
    for token in tokens:
        digest.update(len(token).to_bytes(4, "little") + token)
    return digest.hexdigest()


def _peak_mb() -> float:
    # Not `ru_maxrss`, which begins at what the process that started this one held.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def _train_here(documents: Sequence[str]) -> Tokenizer:
    counter = rustbpe_py.PieceCounter(SPLIT_PATTERN)
    counter.add(iter(documents))
    merges = counter.train(VOCAB)
    tokens = set(ordinary_tokens(Tokenizer(SPLIT_PATTERN, merges)))
    top = counter.top((1 + FREQUENT_PER_ID) * VOCAB, 2, 15)
    frequent = [piece.decode() for piece, _ in top if piece not in tokens and _is_text(piece)]
    return Tokenizer(SPLIT_PATTERN, merges, frequent_pieces=frequent[: FREQUENT_PER_ID * VOCAB])


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- encoding and decoding ------------------------------------------------------------------------------------------


def _encoding(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Result]:
    theirs = _tiktoken(tokenizer, tokenizer.pattern)
    size = sum(len(text.encode()) for text in texts)
    expected = [id_ for text in texts for id_ in theirs.encode_ordinary(text)]
    if tokenizer.encode_batch_to_numpy(texts)[0].tolist() != expected:
        raise BenchError("the ids differ from tiktoken's: a comparison of speed would mean nothing")

    def fresh(encode: Callable[[Tokenizer], object], clock: Callable[[], float] = time.thread_time) -> float:
        return _speed(size, _again(tokenizer), encode, clock)

    def numpy_cold() -> float:
        return fresh(lambda t: t.encode_batch_to_numpy(texts, threads=1))

    def lists_cold() -> float:
        return fresh(lambda t: [t.encode(text) for text in texts])

    def tiktoken_lists() -> float:
        return _speed(size, theirs, lambda t: [t.encode_ordinary(text) for text in texts], time.thread_time)

    def warm() -> float:
        used = _again(tokenizer)
        used.encode_batch_to_numpy(texts, threads=1)
        return _speed(size, used, lambda t: t.encode_batch_to_numpy(texts, threads=1), time.thread_time)

    def on(threads: int) -> Callable[[], float]:
        return lambda: fresh(lambda t: t.encode_batch_to_numpy(texts, threads=threads), time.perf_counter)

    with tempfile.TemporaryDirectory() as folder:
        documents, path = Path(folder) / "texts.parquet", Path(folder) / "ids.bin"
        pq.write_table(pa.table({"text": texts}), documents, row_group_size=128, use_dictionary=False)

        def to_shard() -> float:
            return fresh(lambda t: write_shard(path, encoded(documents, t), t.vocab_size), time.perf_counter)

        name = "encode a Parquet file to a shard, 2 threads, cold"
        shard = compare(name, "MB/s", to_shard, on(2), "to numpy", runs=ENCODE_RUNS, goal="≥ 0.8")
    pairs = [
        ("encode to numpy, 1 thread, cold", numpy_cold, tiktoken_lists, "tiktoken", "≥ 12"),
        ("encode to numpy, 1 thread, warm", warm, tiktoken_lists, "tiktoken", None),
        ("encode to lists, 1 thread, cold", lists_cold, tiktoken_lists, "tiktoken", "≥ 8"),
        ("encode to numpy, 2 threads, cold", on(2), on(1), "1 thread", "≥ 1.8"),
    ]
    results = [compare(n, "MB/s", o, t, a, runs=ENCODE_RUNS, goal=goal) for n, o, t, a, goal in pairs]
    return [*results, shard, *_short_texts(tokenizer, theirs, texts), *_other_peers(tokenizer, texts, size)]


def _short_texts(tokenizer: Tokenizer, theirs: object, texts: Sequence[str]) -> list[Result]:
    short = [text[1000:1064] for text in texts if len(text) > 1064] * 20
    encoder = tokenizer._encoder

    def each(encode: Callable[[str], object]) -> float:
        started = time.thread_time()
        for text in short:
            encode(text)
        return (time.thread_time() - started) / len(short) * 1e6

    name = "encode 64 characters to a list"
    pair = compare(
        name, "µs", lambda: each(encoder.encode), lambda: each(theirs.encode_ordinary), "tiktoken",
        runs=ENCODE_RUNS, goal="≤ 1.2 µs",
    )  # fmt: skip
    return [pair]


def _other_peers(tokenizer: Tokenizer, texts: Sequence[str], size: int) -> list[Result]:
    splintr = _splintr(tokenizer)
    nearest = Tokenizer(CL100K_PATTERN, tokenizer.merges, frequent_pieces=tokenizer.frequent_pieces)
    if [_gigatoken(tokenizer).encode(text).tolist() for text in texts] != nearest.encode_batch(texts):
        raise BenchError("the ids differ from gigatoken's: a comparison of speed would mean nothing")

    def lists(encoder: object) -> float:
        return _speed(size, encoder, lambda e: [e.encode(text) for text in texts], time.thread_time)

    def arrays() -> float:
        return _speed(size, _again(nearest), lambda t: [t.encode_to_numpy(text) for text in texts], time.thread_time)

    name = "encode to lists, 1 thread, cold, beside splintr"
    pattern = "encode to numpy, cl100k's pattern, 1 thread, cold"
    return [
        compare(name, "MB/s", lambda: lists(_again(tokenizer)), lambda: lists(splintr), "splintr", runs=ENCODE_RUNS),
        compare(pattern, "MB/s", arrays, lambda: lists(_gigatoken(tokenizer)), "gigatoken", runs=ENCODE_RUNS),
    ]


def _gigatoken(tokenizer: Tokenizer) -> object:
    """A new one, which has seen no text; its `encode` returns arrays."""
    import gigatoken

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ranks.tiktoken"
        save_tiktoken(tokenizer, path)
        return gigatoken.Tokenizer.from_tiktoken(path, "cl100k")


def _splintr(tokenizer: Tokenizer) -> object:
    import splintr

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ranks.tiktoken"
        save_tiktoken(tokenizer, path)
        return splintr.Tokenizer(str(path), tokenizer.pattern.replace("?+", "?").replace("++", "+"), {})


def _decoding(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Result]:
    theirs = _tiktoken(tokenizer, tokenizer.pattern)
    size = sum(len(text.encode()) for text in texts)
    lists = tokenizer.encode_batch(texts)
    arrays = [np.array(ids, dtype=np.uint16) for ids in lists]

    def ours(batch: Sequence[object]) -> Callable[[], float]:
        return lambda: _speed(size, tokenizer, lambda t: [t.decode(ids) for ids in batch], time.thread_time)

    def tiktoken_lists() -> float:
        return _speed(size, theirs, lambda t: [t.decode(ids) for ids in lists], time.thread_time)

    goal = "≥ 300 MB/s"
    return [
        compare("decode arrays", "MB/s", ours(arrays), tiktoken_lists, "tiktoken", runs=ENCODE_RUNS, goal=goal),
        compare("decode lists", "MB/s", ours(lists), tiktoken_lists, "tiktoken", runs=ENCODE_RUNS, goal=goal),
    ]


def _tiktoken(tokenizer: Tokenizer, pattern: str) -> object:
    import tiktoken

    ranks: dict[bytes, int] = {}
    for rank, token in enumerate(ordinary_tokens(tokenizer)):
        ranks.setdefault(token, rank)
    return tiktoken.Encoding("reference", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def _again(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, which has seen no text."""
    return Tokenizer(
        tokenizer.pattern, tokenizer.merges, tokenizer.special_ids, frequent_pieces=tokenizer.frequent_pieces
    )


def _speed(size: int, encoder: object, encode: Callable[..., object], clock: Callable[[], float]) -> float:
    started = clock()
    encode(encoder)
    return size / 1e6 / (clock() - started)


# --- hard inputs ----------------------------------------------------------------------------------------------------


def hard_inputs() -> dict[str, str | bytes]:
    """A million characters or bytes each of what makes encoders quadratic, or worse."""
    rng = random.Random(1)

    def drawn(characters: Sequence[str], n: int) -> str:
        return "".join(rng.choices(characters, k=n))

    return {
        "a": "a" * MILLION,
        "spaces": " " * MILLION + "x",
        "newlines": "\n" * MILLION,
        "^": "^" * MILLION,
        "63 spaces and a newline": (" " * 63 + "\n") * (MILLION // 64),
        "1000 spaces and x": (" " * 1000 + "x") * (MILLION // 1001),
        "random letters": drawn("abcdefghijklmnopqrstuvwxyz", MILLION),
        "random punctuation": drawn("!#$%&()*+,-./:;<=>?@^_", MILLION),
        "digits": drawn("0123456789", MILLION),
        "latin letters": drawn([chr(c) for c in range(0xC0, 0x180)], MILLION // 2),
        "CJK": drawn([chr(c) for c in range(0x4E00, 0x9FFF)], MILLION // 3),
        "emoji": drawn([chr(c) for c in range(0x1F300, 0x1F6FF)], MILLION // 4),
        "random bytes": rng.randbytes(MILLION),
    }


def _hard_inputs(tokenizer: Tokenizer) -> list[Result]:
    results = []
    for name, text in hard_inputs().items():
        runs = []
        for _ in range(3):
            fresh = _again(tokenizer)
            started = time.thread_time()
            fresh.encode_to_numpy(text)
            runs.append((time.thread_time() - started) * 1e3)
        results.append(Result(f"encode 1 MB of {name}", "ms", tuple(runs), goal="≤ 100 ms"))
    return results


if __name__ == "__main__":
    _train_once(*sys.argv[1:])
