"""Errors that are a `UserError` for our code and an `OSError` for libraries, which expect one from a file system."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from aquarat_core.artifacts import ArtifactError, StoreError
from aquarat_core.errors import UserError


class NoSuchPathError(UserError, FileNotFoundError):
    """A path that does not exist; the message lists what the store or the artifact has instead."""


class FolderError(UserError, IsADirectoryError):
    """A folder where a file is needed."""


class ReadOnlyError(UserError, OSError):
    """An attempt to write: artifacts never change."""


class UnreadableError(UserError, OSError):
    """A store that cannot be used, or a damaged artifact; the message says which, and what to do."""


@contextmanager
def as_os_errors() -> Generator[None]:
    """Turns errors of the store in the block into an `UnreadableError` with the same message."""
    try:
        yield
    except (ArtifactError, StoreError) as e:
        raise UnreadableError(str(e)) from e
