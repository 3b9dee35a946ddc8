"""Opens the backend for a store's URI."""

from __future__ import annotations

import re
from pathlib import Path

from aquarat_core.artifacts.backend import Backend
from aquarat_core.artifacts.errors import StoreError
from aquarat_core.errors import MissingPackageError


def open_backend(uri: str) -> Backend:
    """The backend of `file:///absolute/path` (or `/absolute/path`), `gs://bucket/prefix` or `memory://name`."""
    scheme, _, rest = uri.partition("://") if "://" in uri else ("file", "", uri)
    rest = rest.rstrip("/")
    if scheme == "file":
        from aquarat_core.artifacts.local import LocalBackend

        if not rest.startswith("/"):
            raise StoreError(f"store {uri!r} is not an absolute path: write file:///absolute/path")
        return LocalBackend(Path(rest))
    if scheme == "memory":
        from aquarat_core.artifacts.memory import MemoryBackend

        return MemoryBackend(rest)
    if scheme == "gs":
        bucket, _, prefix = rest.partition("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket):
            raise StoreError(f"store {uri!r} does not name a bucket: write gs://bucket or gs://bucket/prefix")
        try:
            from aquarat_core.artifacts.gcs import GCSBackend
        except ModuleNotFoundError as e:
            if not (e.name or "").startswith("google"):
                raise
            raise MissingPackageError(f"the store {uri}", "google-cloud-storage", "gcp") from None
        return GCSBackend(bucket, prefix)
    raise StoreError(f"store {uri!r} has the unknown scheme {scheme!r}: use file://, gs:// or memory://")
