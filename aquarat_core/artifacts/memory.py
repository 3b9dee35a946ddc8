"""A store in this process's memory, for unit tests: the same name gives the same store."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from aquarat_core.artifacts.backend import Stat, Versioned
from aquarat_core.artifacts.errors import ArtifactError
from aquarat_core.artifacts.hashing import Digest, digest_bytes, digest_file
from aquarat_core.artifacts.transfer import OnBytes, no_progress

_STORES: dict[str, dict[str, bytes]] = defaultdict(dict)
_TIMES: dict[str, dict[str, float]] = defaultdict(dict)
_LOCK = threading.Lock()


class MemoryBackend:
    def __init__(self, name: str) -> None:
        self.uri = f"memory://{name}"
        self._objects = _STORES[name]
        self._times = _TIMES[name]

    def read(self, key: str) -> Versioned | None:
        data = self._objects.get(key)
        return None if data is None else Versioned(data, _version(data))

    def size(self, key: str) -> int | None:
        data = self._objects.get(key)
        return None if data is None else len(data)

    def keys(self, prefix: str) -> Iterator[str]:
        return iter(sorted(k for k in self._objects if k.startswith(prefix)))

    def stats(self, prefix: str) -> Iterator[Stat]:
        return (self._stat(key) for key in self.keys(prefix))

    def delete(self, key: str, expected: Stat | None = None) -> bool:
        with _LOCK:
            if key not in self._objects or (expected is not None and self._stat(key) != expected):
                return False
            del self._objects[key]
            return True

    def create(self, key: str, data: bytes) -> bool:
        with _LOCK:
            if key in self._objects:
                return False
            self._set(key, data)
            return True

    def swap(self, key: str, data: bytes, expected: str) -> bool:
        with _LOCK:
            if key not in self._objects or _version(self._objects[key]) != expected:
                return False
            self._set(key, data)
            return True

    def write(self, key: str, data: bytes) -> None:
        with _LOCK:
            self._set(key, data)

    def put_file(self, key: str, source: Path, digest: Digest, advance: OnBytes = no_progress) -> None:
        data = source.read_bytes()
        if digest_bytes(data) != digest:
            raise ArtifactError(f"{source} changed while it was being published: write it fully first")
        self.write(key, data)
        advance(len(data))

    def add_file(self, source: Path, key_of: Callable[[Digest], str], advance: OnBytes = no_progress) -> Digest:
        digest = digest_file(source)
        self.put_file(key_of(digest), source, digest, advance)
        return digest

    def get_file(self, key: str, target: Path, have: int = 0, advance: OnBytes = no_progress) -> Digest | None:
        data = self._objects.get(key)
        if data is None:
            return None
        target.write_bytes(data)
        advance(len(data))
        return digest_bytes(data)

    def digest(self, key: str, advance: OnBytes = no_progress) -> Digest | None:
        return self.get_file(key, Path(os.devnull), advance=advance)

    def _set(self, key: str, data: bytes) -> None:
        self._objects[key] = data
        self._times[key] = time.time()

    def _stat(self, key: str) -> Stat:
        data, modified = self._objects[key], self._times[key]
        return Stat(key, len(data), modified, digest_bytes(data).crc32c, str(modified))


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
