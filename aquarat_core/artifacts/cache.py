"""Verified local copies of artifact files, shared by all processes of a host.

`blobs/ab/<sha256>` holds the bytes once; `trees/<tree>/<path>` are hard links to them under the names that readers
expect. A copy is checked against its digest when a process first uses it; what is damaged is fetched again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from aquarat_core.artifacts.errors import os_errors
from aquarat_core.artifacts.hashing import digest_file
from aquarat_core.artifacts.manifest import FileEntry


class Cache:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._verified: dict[Path, tuple[int, int, int]] = {}

    def file(self, tree: str, entry: FileEntry, fetch: Callable[[Path], None]) -> Path:
        """The path of `entry` in `tree`. `fetch(path)` writes exactly its bytes there, or raises.

        Raises `StoreError` if the cache directory cannot be used.
        """
        blob = self._root / "blobs" / entry.sha256[:2] / entry.sha256
        path = self._root / "trees" / tree / entry.path
        with os_errors(f"cache {self._root}, fetching {entry.path},", "Set AQUARAT_CACHE to a directory with room."):
            if self._is_good(path, entry):
                return path
            if not self._is_good(blob, entry):
                self._atomically(blob, fetch)
            self._atomically(path, lambda temp: os.link(blob, temp))
            self._verified[path] = _identity(path)
        return path

    def _is_good(self, path: Path, entry: FileEntry) -> bool:
        if not path.is_file():
            return False
        identity = _identity(path)
        if self._verified.get(path) != identity:
            if identity[0] != entry.size or digest_file(path) != entry.digest:
                return False
            self._verified[path] = identity
        return True

    def _atomically(self, path: Path, write: Callable[[Path], None]) -> None:
        temp = self._root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
        temp.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temp)
            temp.chmod(0o444)
            os.replace(temp, path)
        finally:
            # Also after success: renaming one hard link of a file onto another of the same file keeps both.
            temp.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
