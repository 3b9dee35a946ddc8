"""Digests computed while the bytes stream by: SHA-256 names the content, CRC-32C is what a bucket reports."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

CHUNK = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Digest:
    """What identifies a file's bytes: the size, SHA-256 in hex, CRC-32C in base64 as Google Cloud Storage gives it."""

    size: int
    sha256: str
    crc32c: str


class Hasher:
    """Updates all digests chunk by chunk."""

    def __init__(self) -> None:
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._crc32c = google_crc32c.Checksum()

    def update(self, data: bytes) -> None:
        self._size += len(data)
        self._sha256.update(data)
        self._crc32c.update(data)

    def digest(self) -> Digest:
        return Digest(self._size, self._sha256.hexdigest(), base64.b64encode(self._crc32c.digest()).decode())


def digest_bytes(data: bytes) -> Digest:
    hasher = Hasher()
    hasher.update(data)
    return hasher.digest()


def digest_file(path: Path) -> Digest:
    """The digest of a file, read once in chunks of 4 MiB."""
    hasher = Hasher()
    with path.open("rb") as f:
        while chunk := f.read(CHUNK):
            hasher.update(chunk)
    return hasher.digest()
