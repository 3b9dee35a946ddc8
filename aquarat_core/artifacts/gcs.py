"""A store in a Google Cloud Storage bucket.

Objects there are immutable and appear whole; `ifGenerationMatch` makes creating (generation 0) and swapping (the
generation last read) atomic. Each small write carries a random writer id: a retry that finds its own earlier write, the
answer to which was lost on the way, knows that it has won and not lost.
Credentials are the environment's (application default, or a service account file); with `STORAGE_EMULATOR_HOST` none.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import google.auth.exceptions
import requests
from google.api_core import exceptions as api
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from aquarat_core.artifacts.backend import Stat, Versioned
from aquarat_core.artifacts.errors import ArtifactError, StoreError
from aquarat_core.artifacts.hashing import Digest, HashingWriter

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Bucket

_RETRY = DEFAULT_RETRY.with_timeout(60)
_TRANSFER_RETRY = DEFAULT_RETRY.with_timeout(600)
_UPLOAD_CHUNK = 16 * 1024 * 1024
_PUT_TRIES = 5
_TOUCH_AFTER = 3600.0
"""Seconds; well below the day for which garbage collection spares everything new."""
_LOGIN = "Run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS to a service account file."


class GCSBackend:
    def __init__(self, bucket: str, prefix: str) -> None:
        self.uri = f"gs://{bucket}/{prefix}".rstrip("/")
        self._bucket_name = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket_is_there = False

    def read(self, key: str) -> Versioned | None:
        with self._errors():
            blob = self._blob(key)
            try:
                data = blob.download_as_bytes(retry=_RETRY)
            except api.NotFound:
                self._require_bucket()
                return None
            return Versioned(data, str(blob.generation))

    def size(self, key: str) -> int | None:
        with self._errors():
            blob = self._stat(key)
            return None if blob is None else blob.size

    def keys(self, prefix: str) -> Iterator[str]:
        with self._errors():
            found = self._bucket.list_blobs(prefix=self._prefix + prefix, retry=_RETRY)
            return iter([b.name.removeprefix(self._prefix) for b in found])

    def stats(self, prefix: str) -> Iterator[Stat]:
        with self._errors():
            for blob in self._bucket.list_blobs(prefix=self._prefix + prefix, retry=_RETRY):
                yield self._stat_of(blob)

    def delete(self, key: str, expected: Stat | None = None) -> bool:
        with self._errors():
            blob = self._stat(key)
            if blob is None or (expected is not None and self._stat_of(blob) != expected):
                return False
            try:
                blob.delete(
                    if_generation_match=blob.generation, if_metageneration_match=blob.metageneration, retry=_RETRY
                )
            except (api.NotFound, api.PreconditionFailed):
                return False
            return True

    def create(self, key: str, data: bytes) -> bool:
        return self._conditional_write(key, data, generation=0)

    def swap(self, key: str, data: bytes, expected: str) -> bool:
        return self._conditional_write(key, data, generation=int(expected))

    def write(self, key: str, data: bytes) -> None:
        with self._errors():
            self._blob(key).upload_from_string(data, content_type="application/json", retry=_RETRY)

    def put_file(self, key: str, source: Path, digest: Digest) -> None:
        with self._errors():
            for _ in range(_PUT_TRIES):
                existing = self._stat(key)
                if existing is not None and (existing.size, existing.crc32c) == (digest.size, digest.crc32c):
                    if self._touch(existing):
                        return
                    continue
                blob = self._blob(key, chunk_size=_UPLOAD_CHUNK)
                generation = existing.generation if existing is not None else 0
                try:
                    blob.upload_from_filename(
                        str(source),
                        content_type="application/octet-stream",
                        if_generation_match=generation,
                        retry=_TRANSFER_RETRY,
                    )
                except api.PreconditionFailed:
                    continue
                if (blob.size, blob.crc32c) != (digest.size, digest.crc32c):
                    raise ArtifactError(f"{source} changed while it was being published: write it fully first")
                return
            raise StoreError(f"{self.uri}/{key} is rewritten all the time: does another program use this prefix?")

    def get_file(self, key: str, target: Path) -> Digest | None:
        with self._errors(), target.open("wb") as sink:
            writer = HashingWriter(sink)
            try:
                self._blob(key).download_to_file(writer, retry=_TRANSFER_RETRY)
            except api.NotFound:
                self._require_bucket()
                return None
            return writer.digest()

    @cached_property
    def _bucket(self) -> Bucket:
        return storage.Client(project=None).bucket(self._bucket_name)

    def _blob(self, key: str, chunk_size: int | None = None) -> Blob:
        return self._bucket.blob(self._prefix + key, chunk_size=chunk_size)

    def _stat(self, key: str) -> Blob | None:
        blob = self._bucket.get_blob(self._prefix + key, retry=_RETRY)
        if blob is None:
            self._require_bucket()
        return blob

    def _stat_of(self, blob: Blob) -> Stat:
        version = f"{blob.generation}-{blob.metageneration}"
        key = blob.name.removeprefix(self._prefix)
        return Stat(key, blob.size, blob.updated.timestamp(), blob.crc32c, version)

    def _touch(self, blob: Blob) -> bool:
        """Marks an object as in use, unless it was lately; False where it is gone meanwhile."""
        if time.time() - blob.updated.timestamp() < _TOUCH_AFTER:
            return True
        blob.metadata = {**(blob.metadata or {}), "used": str(int(time.time()))}
        try:
            blob.patch(if_generation_match=blob.generation, retry=_RETRY)
        except (api.NotFound, api.PreconditionFailed):
            return False
        return True

    def _conditional_write(self, key: str, data: bytes, generation: int) -> bool:
        writer = uuid.uuid4().hex
        with self._errors():
            blob = self._blob(key)
            blob.metadata = {"writer": writer}
            try:
                blob.upload_from_string(
                    data, content_type="application/json", if_generation_match=generation, retry=_RETRY
                )
            except api.PreconditionFailed:
                there = self._stat(key)
                return there is not None and (there.metadata or {}).get("writer") == writer
            return True

    def _require_bucket(self) -> None:
        """A missing object and a missing bucket are both 404: tells them apart, raising `NotFound` for the bucket."""
        if not self._bucket_is_there:
            next(iter(self._bucket.list_blobs(max_results=1, retry=_RETRY)), None)
            self._bucket_is_there = True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except api.NotFound as e:
            raise StoreError(
                f"bucket {self._bucket_name} of store {self.uri} does not exist: create it with "
                f"`gcloud storage buckets create gs://{self._bucket_name}`, or correct AQUARAT_STORE."
            ) from e
        except (api.Unauthorized, google.auth.exceptions.GoogleAuthError) as e:
            raise StoreError(f"store {self.uri} refuses the credentials: {_first_line(e)}. {_LOGIN}") from e
        except api.Forbidden as e:
            raise StoreError(
                f"store {self.uri} refuses access: {_first_line(e)}. The account needs roles/storage.objectUser on it."
            ) from e
        except (api.GoogleAPIError, requests.exceptions.RequestException) as e:
            raise StoreError(
                f"store {self.uri} does not answer as it should: {_first_line(e)}. Check the network, "
                "and STORAGE_EMULATOR_HOST if an emulator is meant; then run the same command again."
            ) from e


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")[:300] if str(error).strip() else type(error).__name__
