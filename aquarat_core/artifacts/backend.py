"""What a place must be able to do to hold a store: a few small operations.

Keys are relative posix paths. Small objects (manifests, refs, job files) pass as bytes; blobs of any size as files,
hashed while they stream. Every write is atomic: a reader sees the whole object or none.
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
    """A small object and the version that a compare-and-swap must name."""

    data: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Stat:
    """An object as a listing shows it. `modified` is in seconds since 1970, by the clock of the place itself."""

    key: str
    size: int
    modified: float
    crc32c: str | None
    """CRC-32C in base64 where the place keeps one; None where only reading the bytes can tell."""
    version: str
    """Changes whenever the object is written or touched."""


class Backend(Protocol):
    """Raises `StoreError` wherever the place itself fails; a missing object is a None or False, not an error."""

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
        """What `keys` gives, with sizes and times, in the same order."""
        ...

    def delete(self, key: str, expected: Stat | None = None) -> bool:
        """Removes the object; False, and nothing removed, where there is none.

        With `expected` also where it was written or touched since that was listed: `put_file` touches an object that
        it finds in place, so that what a publication relies on is not collected as garbage meanwhile.
        """
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Writes the object unless there is one; False if there is: of any number of writers one gets True."""
        ...

    def swap(self, key: str, data: bytes, expected: str) -> bool:
        """Replaces the object if it still has the version `expected`; False, and nothing written, where it has not."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Writes or replaces the object; the last writer wins."""

    def put_file(self, key: str, source: Path, digest: Digest, advance: OnBytes = no_progress) -> None:
        """Makes sure that `key` holds the bytes of `source`, whose digest is `digest`.

        An object that is there already and right is touched and not sent again; one that is damaged is replaced.
        Raises `ArtifactError` if `source` no longer has that digest.
        """

    def add_file(self, source: Path, key_of: Callable[[Digest], str], advance: OnBytes = no_progress) -> Digest:
        """As `put_file`, under the key that `key_of` gives to the digest of `source`, which is returned."""
        ...

    def get_file(self, key: str, target: Path, have: int = 0, advance: OnBytes = no_progress) -> Digest | None:
        """Writes the object's bytes to `target` and returns their digest as read, or None if there is no object.

        The first `have` bytes of `target`, left there by an attempt that was cut off, are taken as they are: if the
        digest then is not the expected one, try again without. An `OSError` of `target` is the caller's.
        """
        ...

    def digest(self, key: str, advance: OnBytes = no_progress) -> Digest | None:
        """The digest of the object's bytes as read, or None if there is no object."""
        ...
