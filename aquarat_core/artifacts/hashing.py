"""Digests computed while the bytes stream by: SHA-256 names the content, CRC-32C is the checksum of buckets."""

from __future__ import annotations

import base64
import ctypes
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import google_crc32c

BLOCK = 256 << 10
"""Bytes read and hashed at a time: few enough to stay in the processor's cache between the two."""

Bytes: TypeAlias = "bytes | ctypes.Array[ctypes.c_char]"
"""The C extension for CRC-32C accepts immutable bytes; this array is the only buffer it accepts that can be read
into."""


class Readable(Protocol):
    """A file opened for reading, unbuffered."""

    def readinto(self, buffer: Bytes, /) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Digest:
    """Identifies a file's bytes: size, SHA-256 in hex, CRC-32C in base64 as Google Cloud Storage gives it."""

    size: int
    sha256: str
    crc32c: str


class _Checksum(Protocol):
    """The part of google_crc32c's checksums that is used here, because their parameters have no types."""

    def update(self, chunk: Bytes, /) -> object: ...

    def digest(self) -> bytes: ...


class Hasher:
    """Updates all digests incrementally."""

    def __init__(self) -> None:
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._crc32c: _Checksum = google_crc32c.Checksum()

    def update(self, data: Bytes) -> None:
        self._size += len(data)
        self._sha256.update(data)
        self._crc32c.update(data)

    def read(self, source: Readable, length: int | None = None, passed: Callable[[int], None] | None = None) -> None:
        """Reads `length` bytes (default: all) from `source`; calls `passed` with the number of bytes as they are
        read."""
        block = buffer(BLOCK)
        left = length
        while left != 0:
            into = block if left is None else filled(block, min(BLOCK, left))
            if not (n := source.readinto(into)):
                return
            self.update(filled(block, n))
            left = None if left is None else left - n
            if passed is not None:
                passed(n)

    def digest(self) -> Digest:
        return Digest(self._size, self._sha256.hexdigest(), base64.b64encode(self._crc32c.digest()).decode())


def buffer(size: int) -> ctypes.Array[ctypes.c_char]:
    """A buffer to read bytes into."""
    return ctypes.create_string_buffer(size)


def filled(block: ctypes.Array[ctypes.c_char], length: int) -> ctypes.Array[ctypes.c_char]:
    """The first `length` bytes of the buffer, without a copy."""
    return block if length == len(block) else (ctypes.c_char * length).from_buffer(block)


def digest_bytes(data: bytes) -> Digest:
    hasher = Hasher()
    hasher.update(data)
    return hasher.digest()


def digest_file(path: Path, passed: Callable[[int], None] | None = None) -> Digest:
    """The digest of a file, which is read once; calls `passed` with the number of bytes as they are read."""
    hasher = Hasher()
    with path.open("rb", buffering=0) as f:
        hasher.read(f, passed=passed)
    return hasher.digest()


def tree_digest(folder: Path, pattern: str) -> str:
    """SHA-256 in hex over the paths and bytes of the files below `folder` whose names match a pattern like `*.py`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob(pattern)):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
