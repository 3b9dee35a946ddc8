"""Text for measuring the tokenizer, from documentation and sources that every machine with this project has.

It is read from Debian's documentation and manual pages and from Python's libraries, each file once, in a fixed order.
Two machines have different libraries, so a measurement names the hash of its corpus.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import BenchError

TRAIN_BYTES = 235_000_000
HELD_OUT_BYTES = 10_000_000
MIN_TRAIN_BYTES = 200_000_000
DOCUMENT_CHARS = 60_000
"""Longer files are cut into documents of this many characters."""
HELD_OUT_SHARE = 20
"""One file of this many may be held out."""

PLAIN = {".txt", ".md", ".rst", ".html", ".tex", ".py", ".pyi", ".h", ".hpp", ".cuh", ".c", ".js", ".cmake"}


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents for training and others that share no file with them; `sha256` is over both."""

    train: list[str]
    held_out: list[str]
    sha256: str

    @property
    def train_bytes(self) -> int:
        return sum(len(text.encode()) for text in self.train)

    @property
    def held_out_bytes(self) -> int:
        return sum(len(text.encode()) for text in self.held_out)


def build() -> Corpus:
    """Raises `BenchError` where the machine has less text than a measurement needs."""
    train, held_out, sizes = [], [], [0, 0]
    limits, digest, seen = (TRAIN_BYTES, HELD_OUT_BYTES), hashlib.sha256(), set()
    for raw in _files():
        content = hashlib.sha1(raw, usedforsecurity=False).digest()
        if content in seen:
            continue
        seen.add(content)
        which = int(content[0] % HELD_OUT_SHARE == 0)
        if sizes[which] >= limits[which]:
            continue
        text = raw.decode("utf-8", errors="replace")
        for start in range(0, len(text), DOCUMENT_CHARS):
            document = text[start : start + DOCUMENT_CHARS]
            (train, held_out)[which].append(document)
            encoded = document.encode()
            sizes[which] += len(encoded)
            digest.update(encoded)
            if sizes[which] >= limits[which]:
                break
    if sizes[0] < MIN_TRAIN_BYTES or sizes[1] < HELD_OUT_BYTES:
        raise BenchError(
            f"this machine has {sizes[0]:,} bytes of text to train on and {sizes[1]:,} held out; "
            f"{MIN_TRAIN_BYTES:,} and {HELD_OUT_BYTES:,} are needed. Install some documentation, "
            "such as Debian's python3-doc, debian-handbook or linux-doc."
        )
    return Corpus(train, held_out, digest.hexdigest())


def _files() -> Iterator[bytes]:
    """Every readable text file, in an order that mixes the sources but is the same each time."""
    roots = ["/usr/share/doc", "/usr/share/man", "/usr/share/info", "/usr/share/common-licenses", sys.prefix]
    roots += [sysconfig.get_path("stdlib"), "/usr/include", "/usr/lib/python3", "/usr/share/perl"]
    paths = {path for root in roots for path in Path(root).rglob("*") if _is_text(path) and path.is_file()}
    for path in sorted(paths, key=lambda p: hashlib.sha1(str(p.name).encode(), usedforsecurity=False).digest()):
        try:
            raw = path.read_bytes()
            yield gzip.decompress(raw) if path.suffix == ".gz" else raw
        except (OSError, EOFError, zlib.error):
            continue


def _is_text(path: Path) -> bool:
    if path.suffix == ".gz":
        return True
    return path.suffix in PLAIN or (str(path).startswith("/usr/share/doc/") and path.suffix in ("", ".copyright"))


def sources(chars: int) -> list[str]:
    """Python's own sources, in a fixed order, up to this many characters."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if chars <= 0:
            break
        texts.append(path.read_text(encoding="utf-8", errors="replace")[:chars])
        chars -= len(texts[-1])
    return texts
