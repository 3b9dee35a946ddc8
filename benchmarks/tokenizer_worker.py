"""One training of the tokenizer's bench, in a separate process: `TRAINER FILE VOCAB PATTERN`; prints JSON.

`seconds` are from the first document to the last merge. `peak_mb` is the largest resident memory of the process in its
whole life, from the start of the interpreter to the last merge: the libraries (`imports_mb`), whatever reads the
documents, and the training. `merges` is a hash of the tokens, made when all that has been measured.

Not a bench by itself; it imports nothing that no trainer needs.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import rustbpe_py

from aquarat_core.data.documents import read_columns, read_documents

N_BYTES = 256
Learned = Callable[[], list[bytes]]
"""Gives the tokens in their order; empty where they are not to be compared."""
Trainer = Callable[[Iterable[str | pa.Array], str, int, str], Learned]
"""Takes the documents, the file they are in, the size and the split pattern."""


def ours(threads: int) -> Trainer:
    def train(documents: Iterable[str | pa.Array], _: str, vocab_size: int, pattern: str) -> Learned:
        merges = rustbpe_py.train(documents, vocab_size, pattern, threads=threads)
        return lambda: _tokens(merges)

    return train


def count(threads: int) -> Trainer:
    def count(documents: Iterable[str | pa.Array], _: str, __: int, pattern: str) -> Learned:
        rustbpe_py.PieceCounter(pattern, threads=threads).add(documents)
        return list

    return count


def rustbpe(documents: Iterable[str], _: str, vocab_size: int, pattern: str) -> Learned:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(documents, vocab_size, pattern=pattern)
    return lambda: [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda ranked: ranked[1])]


def gigabpe(_: Iterable[str], path: str, vocab_size: int, __: str) -> Learned:
    import gigabpe

    gigabpe.train_bpe([path], vocab_size, threads=2)
    return list


def in_memory(path: str) -> Iterable[str]:
    return iter(list(read_documents(path)))


def nothing(_: str) -> Iterable[str]:
    return iter(())


TRAINERS: dict[str, tuple[Trainer, Callable[[str], Iterable[str | pa.Array]]]] = {
    **{f"ours-{threads}": (ours(threads), in_memory) for threads in range(1, 5)},
    "ours-streamed": (ours(2), read_columns),
    "count-1": (count(1), in_memory),
    "count-2": (count(2), in_memory),
    "rustbpe": (rustbpe, in_memory),
    "rustbpe-streamed": (rustbpe, read_documents),
    "gigabpe": (gigabpe, nothing),
}
"""Each with how it gets the documents: those that are streamed are read while they are counted."""


def main(trainer: str, path: str, vocab_size: str, pattern: str) -> None:
    train, open_documents = TRAINERS[trainer]
    imports_mb = _peak_mb()
    documents = open_documents(path)
    started = time.perf_counter()
    learned = train(documents, path, int(vocab_size), pattern)
    measured = {"seconds": time.perf_counter() - started, "peak_mb": _peak_mb(), "imports_mb": imports_mb}
    print(json.dumps(measured | {"merges": _hash(learned())}))


def _peak_mb() -> float:
    # Not `ru_maxrss`, which begins at what the process that started this one held.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def _tokens(merges: Sequence[tuple[int, int]]) -> list[bytes]:
    tokens = [bytes([byte]) for byte in range(N_BYTES)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


def _hash(tokens: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for token in tokens:
        digest.update(len(token).to_bytes(4, "little") + token)
    return digest.hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
