"""Verified local copies of artifact files, shared by all processes of a host, up to a size limit.

`blobs/ab/<sha256>` holds the bytes once; `trees/<tree>/<path>` are hard links to them under the names that readers
expect; `partial/<sha256>` is the part of an interrupted fetch that has arrived. A process checks a copy against its
digest when it first uses it; a damaged copy is fetched again.

Several processes that want the same bytes fetch them once: each fetch holds a lock that the kernel releases when the
process ends. When the limit is exceeded, the least recently used files are removed, except those that a living process
uses. Each process lists the files it uses in a file under `users/` and holds a lock on that file while it lives. A file
stays on that list until the process ends, or until it has released the file as often as it was given it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from aquarat_core.artifacts.errors import os_errors
from aquarat_core.artifacts.hashing import digest_file
from aquarat_core.artifacts.manifest import FileEntry

_LEFT_OVER = 86_400.0
"""A partial file that has not been written to for this many seconds is considered abandoned by a killed process."""

Fetch = Callable[[Path, int], None]
"""`fetch(path, have)` completes the file at `path`, whose first `have` bytes are already there, or raises."""


class Cache:
    def __init__(self, root: Path, limit: int) -> None:
        """`limit` is in bytes. Files that living processes use are kept even if they exceed it."""
        self._root = root
        self._limit = limit
        self._verified: dict[Path, tuple[int, int, int]] = {}

    def file(self, tree: str, entry: FileEntry, fetch: Fetch) -> Path:
        """The path of `entry` in `tree`; the file stays there as long as this process, unless that releases it.

        Raises `StoreError` if the cache directory cannot be used, `HostDiskFullError` if its disk is full.
        """
        path = self._root / "trees" / tree / entry.path
        where, remedy = f"cache {self._root}, fetching {entry.path},", "Set AQUARAT_CACHE to a directory with room."
        with os_errors(where, remedy, of_host=True):
            self._use(entry.sha256)
            try:
                if not self._is_good(path, entry):
                    self._link(self._blob(entry, fetch), path)
                    self._verified[path] = _identity(path)
                _mark_used(path)
            except BaseException:
                self.release(entry)
                raise
        return path

    def release(self, entry: FileEntry) -> None:
        """Undoes one call of `file`: after the last, the file may be removed to make room for others."""
        with _USERS_LOCK:
            user = _USERS.get(self._root)
        if user is not None:
            # Lists are read under this lock held alone, so none is read while it is rewritten.
            with _locked(self._root / "locks" / "users", fcntl.LOCK_SH):
                user.drop(entry.sha256)

    def _blob(self, entry: FileEntry, fetch: Fetch) -> Path:
        blob = self._root / "blobs" / entry.sha256[:2] / entry.sha256
        partial = self._root / "partial" / entry.sha256
        with _locked(self._root / "locks" / entry.sha256[:2]):
            if self._is_good(blob, entry):
                return blob
            self._make_room(entry.size)
            partial.parent.mkdir(parents=True, exist_ok=True)
            blob.parent.mkdir(parents=True, exist_ok=True)
            fetch(partial, partial.stat().st_size if partial.is_file() else 0)
            partial.chmod(0o444)
            os.replace(partial, blob)
            self._verified[blob] = _identity(blob)
        return blob

    def _is_good(self, path: Path, entry: FileEntry) -> bool:
        if not path.is_file():
            return False
        identity = _identity(path)
        if self._verified.get(path) != identity:
            if identity[0] != entry.size or digest_file(path) != entry.digest:
                return False
            self._verified[path] = identity
        return True

    def _link(self, blob: Path, path: Path) -> None:
        temp = self._root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
        # Under the lock, because clearing the cache removes empty folders.
        with _locked(self._root / "locks" / "users", fcntl.LOCK_SH):
            temp.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(blob, temp)
                os.replace(temp, path)
            finally:
                # Needed even after success: renaming one hard link of a file onto another of the same file keeps both.
                temp.unlink(missing_ok=True)

    # --- room ---------------------------------------------------------------------------------------------------------

    def _use(self, sha256: str) -> None:
        """Registers that this process uses the blob, so that no other removes it. Waits while the cache is being
        cleared."""
        lock = self._root / "locks" / "users"
        with _USERS_LOCK:
            user = _USERS.get(self._root)
            if user is None:
                # Under the lock: when the cache is cleared, a list that is not locked yet counts as that of a dead
                # process.
                with _locked(lock):
                    _in_use(self._root / "users")
                    self._remove_left_over()
                    user = _USERS[self._root] = _User(self._root / "users")
        with _locked(lock, fcntl.LOCK_SH):
            user.add(sha256)

    def _make_room(self, size: int) -> None:
        """Removes the least recently used blobs until `size` more bytes fit or all remaining blobs are in use."""
        blobs: dict[Path, os.stat_result] = {}
        for blob in (self._root / "blobs").glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # Another process removed it to make room.
                blobs[blob] = blob.stat()
        excess = sum(stat.st_size for stat in blobs.values()) + size - self._limit
        if excess <= 0:
            return
        with _locked(self._root / "locks" / "users"):
            used = _in_use(self._root / "users")
            links = _links(self._root / "trees")
            for blob, stat in sorted(blobs.items(), key=lambda item: item[1].st_atime):
                if excess <= 0:
                    return
                if blob.name not in used:
                    for path in (*links.get(stat.st_ino, ()), blob):
                        path.unlink(missing_ok=True)
                        _remove_empty(path.parent, self._root / "trees")
                    excess -= stat.st_size

    def _remove_left_over(self) -> None:
        """Removes partial files of killed processes that have not been continued for a day."""
        for folder in ("tmp", "partial"):
            for path in (self._root / folder).glob("*"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.lstat().st_ctime > _LEFT_OVER:
                        path.unlink()


class _User:
    """This process's list of blobs, in a file that it holds locked."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{os.getpid()}-{uuid.uuid4().hex}").open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._uses: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, sha256: str) -> None:
        with self._lock:
            if not self._uses[sha256]:
                self._file.write(f"{sha256}\n")
                self._file.flush()
            self._uses[sha256] += 1

    def drop(self, sha256: str) -> None:
        with self._lock:
            self._uses[sha256] -= 1
            if self._uses[sha256] > 0:
                return
            del self._uses[sha256]
            # Written before the rest is cut off: a full disk has room for it.
            self._file.seek(0)
            self._file.writelines(f"{used}\n" for used in self._uses)
            self._file.flush()
            self._file.truncate()


_USERS: dict[Path, _User] = {}
_USERS_LOCK = threading.Lock()
"""Ensures one list per process: a second would replace and close the first, and its blobs could be removed."""


def _in_use(folder: Path) -> set[str]:
    """Blobs that living processes use; lists of dead ones are removed."""
    used: set[str] = set()
    for path in folder.glob("*"):
        with path.open() as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                used.update(f.read().split())
            else:
                path.unlink()
    return used


def _links(trees: Path) -> dict[int, list[Path]]:
    """Paths below `trees`, by inode number."""
    found: dict[int, list[Path]] = {}
    # Unlike `Path.rglob`, it does not raise at a folder that a user clears meanwhile.
    for folder, _, names in os.walk(trees):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                found.setdefault(path.stat().st_ino, []).append(path)
    return found


def _remove_empty(folder: Path, top: Path) -> None:
    """Removes `folder` and its parents as long as they are empty and below `top`."""
    while folder.is_relative_to(top) and folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


@contextmanager
def _locked(path: Path, how: int = fcntl.LOCK_EX) -> Generator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as f:
        fcntl.flock(f, how)
        yield


def _mark_used(path: Path) -> None:
    """Sets the access time, because many file systems are mounted so that reading does not."""
    stat = path.stat()
    with contextlib.suppress(PermissionError):
        os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))


def _identity(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
