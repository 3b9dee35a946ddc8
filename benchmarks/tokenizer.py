"""The tokenizer: training, encoding, decoding and hard inputs, compared with the installed peers.

The corpus is made of this machine's documentation and libraries (`benchmarks/corpus.py`), and its hash is part of the
results' names. Peers are measured in turn with ours in the same run, so their ratios hold on a busy machine too:

- training runs in a process of its own, from a Python iterator over documents in memory, wall time, on two threads
  beside its peers, and on up to four beside one;
- merging alone starts from the counts, which makes the array of pieces part of it;
- its memory is that of further processes, which read the documents from a Parquet file as they go: the largest resident
  memory of the whole process, from its start to the last merge, libraries and reading included;
- a shard is tokenized from a Parquet file to a file of ids, beside the same texts from memory to numpy;
- what runs on one thread is measured in that thread's CPU time;
- `cold` encodings are of text that the encoder, made anew each time, has never seen; `warm` ones are its second pass.

gigabpe and gigatoken cannot split by our pattern: ours is given the one that they have.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
import rustbpe_py

from aquarat_core.config import SPLIT_PATTERN
from aquarat_core.data.documents import read_columns, write_documents
from aquarat_core.data.token_files import write_shard
from aquarat_core.settings import REPO_ROOT
from aquarat_core.stages.token_shard import encoded
from aquarat_core.text.compression import CL100K_PATTERN
from aquarat_core.text.formats import GPT2_PATTERN, ordinary_tokens, save_tiktoken
from aquarat_core.text.tokenizer import FREQUENT_PER_ID, Tokenizer
from benchmarks import corpus
from benchmarks.harness import Against, BenchError, Result, compare

VOCAB = 32_768
SHARD_BYTES = 64_000_000
TRAIN_RUNS = 3
THREADS = min(4, len(os.sched_getaffinity(0)))
"""Of what is compared with one thread."""
THREADS_GOAL = {2: "≥ 1.7", 4: "≥ 2.5"}.get(THREADS)
ENCODE_RUNS = 7
MILLION = 1_000_000


class Material:
    """What the parts measure on, each made when one asks for it; the files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.text = corpus.build()

    @cached_property
    def documents(self) -> Path:
        """The documents to train on, as pretrain_text would write them."""
        write_documents(path := self._folder / "train.parquet", self.text.train)
        return path

    @cached_property
    def plain(self) -> Path:
        path = self._folder / "train.txt"
        path.write_text("\n".join(self.text.train), encoding="utf-8")
        return path

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return _train_here(self.text.train)


def run() -> list[Result]:
    """The measurements of all `PARTS`, or of those that AQUARAT_BENCH_TOKENIZER names.

    Raises `BenchError` where a peer's result differs from ours.
    """
    wanted = os.environ.get("AQUARAT_BENCH_TOKENIZER", "").split() or list(PARTS)
    if unknown := set(wanted) - PARTS.keys():
        raise BenchError(f"AQUARAT_BENCH_TOKENIZER names {' '.join(sorted(unknown))}; there are {' '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        material = Material(Path(folder))
        results = [Result(f"corpus {material.text.sha256[:12]}", "MB", (material.text.train_bytes / 1e6,))]
        for name in wanted:
            results += PARTS[name](material)
    return results


# --- training -------------------------------------------------------------------------------------------------------


def _training(material: Material) -> list[Result]:
    measured: dict[str, list[dict[str, float]]] = {}
    megabytes = material.text.train_bytes / 1e6

    def speed(trainer: str, path: Path = material.documents, pattern: str = SPLIT_PATTERN) -> Callable[[], float]:
        def once() -> float:
            measured.setdefault(trainer, []).append(answer := _in_process(trainer, path, pattern))
            return megabytes / answer["seconds"]

        return once

    against_rustbpe = compare(
        "train 32k, 2 threads", "MB/s", speed("ours-2"), speed("rustbpe"), "rustbpe", runs=TRAIN_RUNS, goal="≥ 10"
    )
    if measured["ours-2"][0]["merges"] != measured["rustbpe"][0]["merges"]:
        raise BenchError("the merges differ from rustbpe's: a comparison of speed would mean nothing")
    counting = compare(
        "count pieces, 2 threads", "MB/s", speed("count-2"), speed("count-1"), "1 thread", runs=TRAIN_RUNS, goal="≥ 1.5"
    )
    label, one, several = f"train 32k, {THREADS} threads beside one", speed("ours-1"), speed(f"ours-{THREADS}")
    whole = compare(label, "MB/s", several, one, "1 thread", runs=ENCODE_RUNS, goal=THREADS_GOAL)
    label, goal = "train 32k, GPT-2 pattern, 2 threads", "≥ 1"
    ours, theirs = speed("ours-2", pattern=GPT2_PATTERN), speed("gigabpe", material.plain)
    gpt2 = compare(label, "MB/s", ours, theirs, "gigabpe", runs=TRAIN_RUNS, goal=goal)
    return [against_rustbpe, whole, counting, _merging(material), gpt2]


def _merging(material: Material) -> Result:
    """Raises `BenchError` where the merges depend on the number of threads."""
    (counter := rustbpe_py.PieceCounter(SPLIT_PATTERN)).add(iter(material.text.train))
    saved = counter.to_bytes()
    one, several = (rustbpe_py.PieceCounter.from_bytes(saved, threads=threads) for threads in (1, THREADS))
    if one.train(VOCAB) != several.train(VOCAB):
        raise BenchError(f"{THREADS} threads learned other merges than one")

    def speed(counter: rustbpe_py.PieceCounter) -> float:
        return _speed(VOCAB * 1_000_000, counter, lambda c: c.train(VOCAB), time.perf_counter)

    label = f"merge 32k, {THREADS} threads"
    return compare(label, "merges/s", lambda: speed(several), lambda: speed(one), "1 thread", runs=ENCODE_RUNS)


def _memory(material: Material) -> list[Result]:
    ours = [_in_process("ours-streamed", material.documents) for _ in range(TRAIN_RUNS)]
    theirs = _in_process("rustbpe-streamed", material.documents)
    if ours[0]["merges"] != theirs["merges"]:
        raise BenchError("the merges differ from rustbpe's: a comparison of memory would mean nothing")
    peak, imports = (tuple(run[key] for run in ours) for key in ("peak_mb", "imports_mb"))
    against = Against("rustbpe", theirs["peak_mb"])
    return [
        Result("train 32k from Parquet, peak memory", "MB", peak, against, median(peak) / against.value, "≤ 416 MB"),
        Result("of it Python, numpy and pyarrow", "MB", imports),
    ]


def _in_process(trainer: str, path: Path, pattern: str = SPLIT_PATTERN) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.tokenizer_worker", trainer, str(path), str(VOCAB), pattern]
    done = subprocess.run(command, cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise BenchError(f"training with {trainer} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


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


def _encoding(material: Material) -> list[Result]:
    tokenizer, texts = material.tokenizer, material.text.held_out
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

    pairs = [
        ("encode to numpy, 1 thread, cold", numpy_cold, tiktoken_lists, "tiktoken", "≥ 12"),
        ("encode to numpy, 1 thread, warm", warm, tiktoken_lists, "tiktoken", None),
        ("encode to lists, 1 thread, cold", lists_cold, tiktoken_lists, "tiktoken", "≥ 8"),
        ("encode to numpy, 2 threads, cold", on(2), on(1), "1 thread", "≥ 1.8"),
    ]
    results = [compare(n, "MB/s", o, t, a, runs=ENCODE_RUNS, goal=goal) for n, o, t, a, goal in pairs]
    return [*results, *_short_texts(tokenizer, theirs, texts), *_other_peers(tokenizer, texts, size)]


def _shards(material: Material) -> list[Result]:
    """Of the first `SHARD_BYTES` of the training text, as much as a shard holds; the encoders have not seen it."""
    tokenizer, texts, size = material.tokenizer, [], 0
    for text in material.text.train:
        texts.append(text)
        if (size := size + len(text.encode())) >= SHARD_BYTES:
            break
    with tempfile.TemporaryDirectory() as folder:
        documents, shard = Path(folder) / "texts.parquet", Path(folder) / "ids.bin"
        write_documents(documents, texts)

        def to_shard() -> float:
            fresh = _again(tokenizer)
            write = lambda t: write_shard(shard, encoded(documents, t, threads=2), t.vocab_size)  # noqa: E731
            return _speed(size, fresh, write, time.perf_counter)

        def to_numpy() -> float:
            encode = lambda t: t.encode_batch_to_numpy(texts, threads=2)  # noqa: E731
            return _speed(size, _again(tokenizer), encode, time.perf_counter)

        def read_only() -> float:
            return _speed(size, documents, lambda path: deque(read_columns(path), maxlen=0), time.process_time)

        name = "encode a Parquet file to a shard, 2 threads, cold"
        return [
            compare(name, "MB/s", to_shard, to_numpy, "to numpy", runs=ENCODE_RUNS, goal="≥ 0.8"),
            Result("read the Parquet file, processor time", "MB/s", tuple(read_only() for _ in range(ENCODE_RUNS))),
        ]


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
        runs=ENCODE_RUNS, goal="≤ 0.125",
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


def _decoding(material: Material) -> list[Result]:
    tokenizer, texts = material.tokenizer, material.text.held_out
    theirs = _tiktoken(tokenizer, tokenizer.pattern)
    size = sum(len(text.encode()) for text in texts)
    lists = tokenizer.encode_batch(texts)
    arrays = [np.array(ids, dtype=np.uint16) for ids in lists]

    def ours(batch: Sequence[object]) -> Callable[[], float]:
        return lambda: _speed(size, tokenizer, lambda t: [t.decode(ids) for ids in batch], time.thread_time)

    def tiktoken_lists() -> float:
        return _speed(size, theirs, lambda t: [t.decode(ids) for ids in lists], time.thread_time)

    return [
        compare(f"decode {name}", "MB/s", ours(batch), tiktoken_lists, "tiktoken", runs=ENCODE_RUNS, goal="≥ 6")
        for name, batch in (("arrays", arrays), ("lists", lists))
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


def _hard_inputs(material: Material) -> list[Result]:
    results = []
    for name, text in hard_inputs().items():
        runs = []
        for _ in range(3):
            fresh = _again(material.tokenizer)
            started = time.thread_time()
            fresh.encode_to_numpy(text)
            runs.append((time.thread_time() - started) * 1e3)
        results.append(Result(f"encode 1 MB of {name}", "ms", tuple(runs), goal="≤ 100 ms"))
    return results


PARTS: dict[str, Callable[[Material], list[Result]]] = {
    "training": _training,
    "memory": _memory,
    "encoding": _encoding,
    "shards": _shards,
    "decoding": _decoding,
    "hard": _hard_inputs,
}
