"""Errors that are a `UserError` to us and an `OSError` to libraries, which look for that in a file system."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from aquarat_core.artifacts import ArtifactError, StoreError
from aquarat_core.errors import UserError


class NoSuchPathError(UserError, FileNotFoundError):
    """A path that leads to nothing; the message says what the store or the artifact has instead."""


class FolderError(UserError, IsADirectoryError):
    """A folder where a file is needed."""


class ReadOnlyError(UserError, OSError):
    """An attempt to write: artifacts never change."""


class UnreadableError(UserError, OSError):
    """A store that cannot be used, or an artifact that is damaged; the message says which, and the way out."""


@contextmanager
def as_os_errors() -> Generator[None]:
    """Turns what the store raises in the block into an `UnreadableError` with the same message."""
    try:
        yield
    except (ArtifactError, StoreError) as e:
        raise UnreadableError(str(e)) from e
