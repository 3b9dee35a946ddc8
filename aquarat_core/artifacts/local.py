"""A store in a directory of a POSIX file system, durable and atomic.

Every object is first written and fsynced as a temporary file under `tmp/`. It gets its name by `os.link` (create-only:
fails if the name exists) or `os.replace`, then the directory is fsynced. Readers never look into `tmp/`, so nothing
that a killed writer leaves there is mistaken for an object. Compare-and-swap holds an flock, which the kernel releases
when the process ends.

All files and folders get the permissions of the root directory: a user who can read or write the root can do so in the
whole store, regardless of the umask of the process that wrote them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from aquarat_core.artifacts.backend import Stat, Versioned
from aquarat_core.artifacts.errors import ArtifactError, StoreError, os_errors
from aquarat_core.artifacts.filecopy import copy_hashed
from aquarat_core.artifacts.hashing import Digest, digest_file
from aquarat_core.artifacts.transfer import OnBytes, no_progress

_REMEDY = "Set AQUARAT_STORE to a directory that this user can write, or free the space or permissions it needs."


_TRANSIENT = ("jobs/", "work/", "shards/")
"""Folders that come and go with runs; they are removed when they become empty."""
_TRIES = 100
_PERMISSION_TRIES = 10


class LocalBackend:
    def __init__(self, root: Path) -> None:
        self.uri = f"file://{root}"
        self._root = root

    def read(self, key: str) -> Versioned | None:
        with self._errors():
            try:
                data = self._path(key).read_bytes()
            except FileNotFoundError:
                return None
        return Versioned(data, hashlib.sha256(data).hexdigest())

    def size(self, key: str) -> int | None:
        with self._errors():
            try:
                return self._path(key).stat().st_size
            except FileNotFoundError:
                return None

    def keys(self, prefix: str) -> Iterator[str]:
        return (found.key for found in self.stats(prefix))

    def stats(self, prefix: str) -> Iterator[Stat]:
        with self._errors():
            found = _walk(self._path(prefix.rpartition("/")[0]), prefix.rpartition("/")[0])
            return iter(sorted((s for s in found if s.key.startswith(prefix)), key=lambda s: s.key))

    def delete(self, key: str, expected: Stat | None = None) -> bool:
        path = self._path(key)
        with self._errors(), self._locked():
            try:
                if expected is not None and _stat(key, path.stat()) != expected:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
            _fsync_directory(path.parent)
            if key.startswith(_TRANSIENT):
                self._remove_empty(path.parent)
            return True

    def create(self, key: str, data: bytes) -> bool:
        with self._errors(), self._temporary(data) as temp:
            return self._link(temp, key)

    def swap(self, key: str, data: bytes, expected: str) -> bool:
        with self._errors(), self._locked():
            current = self.read(key)
            if current is None or current.version != expected:
                return False
            with self._temporary(data) as temp:
                self._replace(temp, key)
            return True

    def write(self, key: str, data: bytes) -> None:
        # Locked, so that a `delete` of the older object does not remove this one.
        with self._errors(), self._temporary(data) as temp, self._locked(fcntl.LOCK_SH):
            self._replace(temp, key)

    def put_file(self, key: str, source: Path, digest: Digest, advance: OnBytes = no_progress) -> None:
        with self._errors():
            if self._touch(key) and digest_file(self._path(key)) == digest:
                return advance(digest.size)
        self._store(source, lambda copied: key if copied == digest else None, advance)

    def add_file(self, source: Path, key_of: Callable[[Digest], str], advance: OnBytes = no_progress) -> Digest:
        return self._store(source, key_of, advance)

    def _store(self, source: Path, key_of: Callable[[Digest], str | None], advance: OnBytes) -> Digest:
        """Copies and hashes `source`, and names the copy by its digest; `key_of` returns None to reject the digest."""
        with self._errors(), source.open("rb", buffering=0) as f, self._temporary() as temp:
            with temp.open("xb", buffering=0) as sink:
                self._share(sink.fileno(), 0o444)
                copied = copy_hashed(f, sink, advance, to_disk=True)
                key = key_of(copied)
                if key is None:
                    raise ArtifactError(f"{source} changed while it was being published: write it fully first")
                if self._touch(key) and digest_file(self._path(key)) == copied:
                    return copied
            # The existing object is damaged, or identical and written after the check above.
            if not self._link(temp, key):
                with self._locked(fcntl.LOCK_SH):
                    self._replace(temp, key)
            return copied

    def get_file(self, key: str, target: Path, have: int = 0, advance: OnBytes = no_progress) -> Digest | None:
        with self._errors():
            try:
                source = self._path(key).open("rb", buffering=0)
            except FileNotFoundError:
                return None
        with source, target.open("r+b" if have else "wb", buffering=0) as sink:
            return copy_hashed(source, sink, advance, have=have)

    def digest(self, key: str, advance: OnBytes = no_progress) -> Digest | None:
        with self._errors():
            try:
                return digest_file(self._path(key), advance)
            except FileNotFoundError:
                return None

    def _touch(self, key: str) -> bool:
        """Marks an object as in use, so that a `delete` with an older listing no longer removes it.

        Returns False if there is none or it belongs to another user: the caller's own copy then replaces it, which has
        the same effect.
        """
        path = self._path(key)
        if not path.exists():
            return False
        with self._locked(fcntl.LOCK_SH):
            try:
                os.utime(path)
            except (FileNotFoundError, PermissionError):
                return False
        return True

    def _errors(self) -> AbstractContextManager[None]:
        return os_errors(f"store {self.uri}", _REMEDY)

    @contextmanager
    def _temporary(self, data: bytes | None = None) -> Generator[Path]:
        """The path of a temporary file, which is removed afterwards. With `data`, it exists, durable and read-only."""
        folder = self._path("tmp")
        self._make_directories(folder)
        temp = folder / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            if data is not None:
                with temp.open("xb") as f:
                    f.write(data)
                    f.flush()
                    self._share(f.fileno(), 0o444)
                    os.fsync(f.fileno())
            yield temp
        finally:
            temp.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise StoreError(f"{key!r} leads outside the store {self.uri}: keys are relative, without '..'")
        return self._root / key

    def _link(self, temp: Path, key: str) -> bool:
        try:
            self._place(os.link, temp, key)
        except FileExistsError:
            return False
        return True

    def _replace(self, temp: Path, key: str) -> None:
        self._place(os.replace, temp, key)

    def _place(self, how: Callable[[Path, Path], None], temp: Path, key: str) -> None:
        """Durably gives `temp` the name of the object. Meanwhile, `delete` may be removing the object's empty
        folders."""
        target = self._path(key)
        for again in reversed(range(_TRIES)):
            try:
                self._make_directories(target.parent)
                how(temp, target)
            except FileNotFoundError:
                if not again or not temp.exists():
                    raise
            except PermissionError:
                # Another user may have just made the folder and not set its permissions yet.
                if again < _TRIES - _PERMISSION_TRIES:
                    raise
                time.sleep(0.005)
            else:
                break
        # The object and its folder may already be gone again.
        with suppress(FileNotFoundError):
            _fsync_directory(target.parent)

    def _remove_empty(self, folder: Path) -> None:
        """Removes `folder` and its parents as long as they are empty; the store's own top folders stay."""
        while len(folder.relative_to(self._root).parts) > 1:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    @contextmanager
    def _locked(self, how: int = fcntl.LOCK_EX) -> Generator[None]:
        self._make_directories(self._root)
        path = self._root / "lock"
        if not path.exists():
            with self._temporary(b"") as temp, suppress(FileExistsError):
                temp.chmod(0o666 & self._root.stat().st_mode)
                os.link(temp, path)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except PermissionError:
            # Sufficient on a local disk. An old lock file, made before files got the root's permissions, may allow no
            # more.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    def _make_directories(self, folder: Path) -> None:
        """Creates `folder` with its parents, each durable: its name is fsynced into its parent directory.

        Below the store's root, each gets the permissions of the root, regardless of the umask of this process.
        """
        if folder.is_dir():
            return
        self._make_directories(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
            if folder != self._root and folder.is_relative_to(self._root):
                self._share_directory(folder)
        _fsync_directory(folder.parent)

    def _share_directory(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._share(fd, 0o7777)
        finally:
            os.close(fd)

    def _share(self, fd: int, mode: int) -> None:
        """Gives a new file or directory the group of the store's root, and the part of `mode` that the root's mode
        allows."""
        root = self._root.stat()
        if root.st_mode & stat.S_IWGRP and os.fstat(fd).st_gid != root.st_gid:
            # Needed if the root lacks the setgid bit. If this user is not in the group, it gets the permissions of
            # others.
            with suppress(PermissionError):
                os.fchown(fd, -1, root.st_gid)
        os.fchmod(fd, mode & (root.st_mode & 0o2777))


def _stat(key: str, found: os.stat_result) -> Stat:
    return Stat(key, found.st_size, found.st_mtime, None, f"{found.st_ino}-{found.st_mtime_ns}")


def _walk(folder: Path, key: str) -> Iterator[Stat]:
    """Every file below `folder`, whose own key is `key`; files that disappear meanwhile are left out."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        below = f"{key}/{entry.name}" if key else entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), below)
            elif entry.is_file(follow_symlinks=False):
                yield _stat(below, entry.stat())
        except FileNotFoundError:
            continue


def _fsync_directory(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
