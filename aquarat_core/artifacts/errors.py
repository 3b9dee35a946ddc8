"""The two kinds of problems: with the store itself, or with an artifact in it."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager

from aquarat_core.errors import UserError

_REASONS = {
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
    errno.EEXIST: "a part of the path is a file, not a directory",
    errno.EISDIR: "there is a directory where a file should be",
    errno.ENAMETOOLONG: "the path is too long",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


class StoreError(UserError):
    """A store (or cache) that cannot be used; the message says what failed, where, and what to do."""


class HostDiskFullError(StoreError):
    """The cache or the scratch directory of this host is on a full disk; another host may have room."""


class ArtifactError(UserError):
    """An artifact that is missing, damaged or cannot be published; the message says which, and what to do."""


class RecordError(ArtifactError):
    """An object in a store that cannot be read: which one, what is wrong with it, and what to do."""

    def __init__(self, what: str, wrong: str, remedy: str) -> None:
        super().__init__(f"{what} cannot be used: {wrong}. {remedy}".rstrip())


@contextmanager
def os_errors(where: str, remedy: str, *, of_host: bool = False) -> Generator[None]:
    """Turns an `OSError` in the block into a `StoreError` with the place, the reason, the path and the `remedy`.

    A full disk raises `HostDiskFullError` if the place belongs to this host (`of_host`), such as its cache.
    """
    try:
        yield
    except OSError as e:
        reason = _REASONS.get(e.errno or 0, e.strerror or str(e))
        path = f" ({e.filename})" if e.filename else ""
        error = HostDiskFullError if of_host and e.errno in _FULL else StoreError
        raise error(f"{where} cannot be used: {reason}{path}. {remedy}") from e
