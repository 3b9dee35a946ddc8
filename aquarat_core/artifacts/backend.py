"""The interface of a storage backend: the few small operations that a store needs.

Keys are relative POSIX paths. Small objects (manifests, refs, job files) are passed as bytes. Blobs of any size are
passed as files and hashed while they stream. Every write is atomic: a reader sees the whole object or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aquarat_core.artifacts.hashing import Digest
from aquarat_core.artifacts.transfer import OnBytes, no_progress


@dataclass(frozen=True, slots=True)
class Versioned:
    """A small object and its version, which a compare-and-swap must name."""

    data: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Stat:
    """An object in a listing. `modified` is in seconds since 1970, by the clock of the storage itself."""

    key: str
    size: int
    modified: float
    crc32c: str | None
    """CRC-32C in base64 if the storage keeps one; None if it can only be computed by reading the bytes."""
    version: str
    """Changes whenever the object is written or touched."""


class Backend(Protocol):
    """Every method raises `StoreError` if the storage fails. A missing object is reported as None or False instead."""

    uri: str

    def read(self, key: str) -> Versioned | None:
        """The object, or None if there is none."""
        ...

    def size(self, key: str) -> int | None:
        """Size of the object in bytes, or None if there is none."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys that start with `prefix`, sorted."""
        ...

    def stats(self, prefix: str) -> Iterator[Stat]:
        """The objects that `keys` lists, with sizes and times, in the same order."""
        ...

    def delete(self, key: str, expected: Stat | None = None) -> bool:
        """Removes the object; returns False and removes nothing if it does not exist.

        With `expected`, also returns False if the object was written or touched after it was listed. `put_file` touches
        an object that it finds in place, so garbage collection cannot remove what a publication relies on.
        """
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Creates the object; returns False if it already exists. Of any number of writers, exactly one gets True."""
        ...

    def swap(self, key: str, data: bytes, expected: str) -> bool:
        """Replaces the object if it still has version `expected`; otherwise writes nothing and returns False."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Writes or replaces the object; the last writer wins."""

    def put_file(self, key: str, source: Path, digest: Digest, advance: OnBytes = no_progress) -> None:
        """Makes sure that `key` holds the bytes of `source`, whose digest is `digest`.

        An object that is already there and correct is touched and not sent again; a damaged one is replaced.
        Raises `ArtifactError` if `source` no longer has that digest.
        """

    def add_file(self, source: Path, key_of: Callable[[Digest], str], advance: OnBytes = no_progress) -> Digest:
        """Like `put_file`, under the key that `key_of` computes from the digest of `source`. Returns the digest."""
        ...

    def get_file(self, key: str, target: Path, have: int = 0, advance: OnBytes = no_progress) -> Digest | None:
        """Writes the object's bytes to `target` and returns their digest as read, or None if there is no object.

        The first `have` bytes of `target`, left there by an interrupted attempt, are kept without checking. If the
        resulting digest is wrong, try again with `have=0`. An `OSError` from `target` is passed on to the caller.
        """
        ...

    def digest(self, key: str, advance: OnBytes = no_progress) -> Digest | None:
        """The digest of the object's bytes as read, or None if there is no object."""
        ...
