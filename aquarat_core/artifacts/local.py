"""A store in a directory of a POSIX file system, durable and atomic.

Every object is first a temporary file under `tmp/`, fsynced, and gets its name by `os.link` (create-only: fails where
the name exists) or `os.replace`; then the directory is fsynced. Readers never look into `tmp/`, so what a killed writer
leaves there is never taken for anything. Compare-and-swap holds an flock, which the kernel releases with its process.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from aquarat_core.artifacts.backend import Stat, Versioned
from aquarat_core.artifacts.errors import ArtifactError, os_errors
from aquarat_core.artifacts.hashing import Digest, copy_hashed, digest_file

_REMEDY = "Set AQUARAT_STORE to a directory that this user can write, or free the space or permissions it needs."


class LocalBackend:
    def __init__(self, root: Path) -> None:
        self.uri = f"file://{root}"
        self._root = root

    def read(self, key: str) -> Versioned | None:
        with self._errors():
            try:
                data = (self._root / key).read_bytes()
            except FileNotFoundError:
                return None
        return Versioned(data, hashlib.sha256(data).hexdigest())

    def size(self, key: str) -> int | None:
        with self._errors():
            try:
                return (self._root / key).stat().st_size
            except FileNotFoundError:
                return None

    def keys(self, prefix: str) -> Iterator[str]:
        with self._errors():
            folder = self._root / prefix.rpartition("/")[0]
            found = (p.relative_to(self._root).as_posix() for p in folder.rglob("*") if p.is_file())
            return iter(sorted(k for k in found if k.startswith(prefix)))

    def stats(self, prefix: str) -> Iterator[Stat]:
        for key in self.keys(prefix):
            with self._errors():
                try:
                    stat = (self._root / key).stat()
                except FileNotFoundError:
                    continue
            yield _stat(key, stat)

    def delete(self, key: str, expected: Stat | None = None) -> bool:
        # Out of the way first: whoever touched the file before that shows in its time, whoever comes after finds none.
        path, aside = self._root / key, self._root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
        with self._errors():
            if not path.is_file():
                return False
            _make_directories(aside.parent)
            try:
                os.rename(path, aside)
            except FileNotFoundError:
                return False
            try:
                if expected is None or _stat(key, aside.stat()) == expected:
                    _fsync_directory(path.parent)
                    return True
                self._link(aside, key)
                return False
            finally:
                aside.unlink()

    def create(self, key: str, data: bytes) -> bool:
        with self._errors(), self._temporary(io.BytesIO(data)) as (temp, _):
            return self._link(temp, key)

    def swap(self, key: str, data: bytes, expected: str) -> bool:
        with self._errors(), self._locked():
            current = self.read(key)
            if current is None or current.version != expected:
                return False
            self.write(key, data)
            return True

    def write(self, key: str, data: bytes) -> None:
        with self._errors(), self._temporary(io.BytesIO(data)) as (temp, _):
            self._replace(temp, key)

    def put_file(self, key: str, source: Path, digest: Digest) -> None:
        with self._errors():
            exists = self._touch(key)
            if exists and digest_file(self._root / key) == digest:
                return
            with source.open("rb") as f, self._temporary(f) as (temp, copied):
                if copied != digest:
                    raise ArtifactError(f"{source} changed while it was being published: write it fully first")
                if exists:
                    self._replace(temp, key)
                else:
                    self._link(temp, key)

    def get_file(self, key: str, target: Path) -> Digest | None:
        with self._errors():
            try:
                source = (self._root / key).open("rb")
            except FileNotFoundError:
                return None
        with source, target.open("wb") as sink:
            return copy_hashed(source, sink)

    def _touch(self, key: str) -> bool:
        try:
            os.utime(self._root / key)
        except FileNotFoundError:
            return False
        return True

    def _errors(self) -> AbstractContextManager[None]:
        return os_errors(f"store {self.uri}", _REMEDY)

    @contextmanager
    def _temporary(self, source: BinaryIO) -> Iterator[tuple[Path, Digest]]:
        """A durable, read-only temporary file with the bytes of `source`, and their digest; gone afterwards."""
        folder = self._root / "tmp"
        _make_directories(folder)
        temp = folder / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with temp.open("xb") as f:
                digest = copy_hashed(source, f)
                f.flush()
                os.fchmod(f.fileno(), 0o444)
                os.fsync(f.fileno())
            yield temp, digest
        finally:
            temp.unlink(missing_ok=True)

    def _link(self, temp: Path, key: str) -> bool:
        target = self._root / key
        _make_directories(target.parent)
        try:
            os.link(temp, target)
        except FileExistsError:
            return False
        _fsync_directory(target.parent)
        return True

    def _replace(self, temp: Path, key: str) -> None:
        target = self._root / key
        _make_directories(target.parent)
        os.replace(temp, target)
        _fsync_directory(target.parent)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        _make_directories(self._root)
        with (self._root / "lock").open("ab") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield


def _stat(key: str, stat: os.stat_result) -> Stat:
    return Stat(key, stat.st_size, stat.st_mtime, None, f"{stat.st_ino}-{stat.st_mtime_ns}")


def _make_directories(folder: Path) -> None:
    """Creates `folder` with its parents, each durable: its name is fsynced into the directory above it."""
    if folder.is_dir():
        return
    _make_directories(folder.parent)
    folder.mkdir(exist_ok=True)
    _fsync_directory(folder.parent)


def _fsync_directory(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
