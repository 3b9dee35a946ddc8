"""A store in a Google Cloud Storage bucket.

Objects there are immutable and appear whole; `ifGenerationMatch` makes creating (generation 0) and swapping (the
generation last read) atomic. Each small write carries a random writer id, so that a retry recognizes its own earlier
write if only the response was lost.
Credentials come from the environment (`credentials.py`); with `STORAGE_EMULATOR_HOST`, only from a token file.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import google.auth.exceptions
import requests
import urllib3
from google.api_core import exceptions as api

from aquarat_core.artifacts.backend import Stat, Versioned
from aquarat_core.artifacts.credentials import environment_credentials
from aquarat_core.artifacts.errors import ArtifactError, StoreError
from aquarat_core.artifacts.gcs_client import Blob, Bucket, open_bucket
from aquarat_core.artifacts.gcs_errors import forbidden, refused, unanswered
from aquarat_core.artifacts.gcs_media import TIMEOUT, Media
from aquarat_core.artifacts.hashing import Digest, digest_file
from aquarat_core.artifacts.retry import Retry
from aquarat_core.artifacts.transfer import OnBytes, no_progress

T = TypeVar("T")

RETRY = Retry()
_CONNECTIONS = 64
_PUT_TRIES = 5
_TOUCH_AFTER = 3600.0
"""Seconds; well below the day during which garbage collection keeps everything new."""
_LISTED = "items(name,size,updated,crc32c,generation,metageneration),nextPageToken"


class GCSBackend:
    def __init__(self, bucket: str, prefix: str) -> None:
        self.uri = f"gs://{bucket}/{prefix}".rstrip("/")
        self._bucket_name = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket_is_there = False

    def read(self, key: str) -> Versioned | None:
        with self._errors():
            found = self._unless_missing(lambda: self._media.read(self._prefix + key))
            return None if found is None else Versioned(*found)

    def size(self, key: str) -> int | None:
        with self._errors():
            blob = self._blob_there(key)
            return None if blob is None else blob.size

    def keys(self, prefix: str) -> Iterator[str]:
        return (stat.key for stat in self.stats(prefix))

    def stats(self, prefix: str) -> Iterator[Stat]:
        with self._errors():
            found: list[Stat] = []
            token = None
            while True:
                blobs, token = RETRY.call(lambda token=token: self._page(prefix, token))
                found += map(self._stat, blobs)
                if token is None:
                    return iter(found)

    def delete(self, key: str, expected: Stat | None = None) -> bool:
        with self._errors():
            blob = self._blob_there(key)
            if blob is None or (expected is not None and self._stat(blob) != expected):
                return False
            try:
                RETRY.call(
                    lambda: blob.delete(
                        if_generation_match=blob.generation,
                        if_metageneration_match=blob.metageneration,
                        retry=None,
                        timeout=TIMEOUT,
                    )
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
            self._send(self._blob(key), data)

    def put_file(self, key: str, source: Path, digest: Digest, advance: OnBytes = no_progress) -> None:
        right = (digest.size, digest.crc32c)
        parts = f"{self._prefix}tmp/parts/{digest.sha256}/"
        with self._errors():
            for _ in range(_PUT_TRIES):
                existing = self._blob_there(key)
                if existing is not None and (existing.size, existing.crc32c) == right:
                    if self._touch(existing):
                        return advance(digest.size)
                    continue
                generation = existing.generation if existing is not None else 0
                try:
                    made = self._media.upload(self._prefix + key, source, digest, generation, parts, advance)
                except (api.PreconditionFailed, api.NotFound):
                    # Another writer was first, or removed the parts that both were composing.
                    self._require_bucket()
                    advance(-digest.size)
                    continue
                if made == right:
                    return
                self.delete(key)
                self._media.discard(parts)
                if digest_file(source) != digest:
                    raise ArtifactError(f"{source} changed while it was being published: write it fully first")
                advance(-digest.size)
            raise StoreError(f"{self.uri}/{key} keeps being rewritten: does another program use this prefix?")

    def add_file(self, source: Path, key_of: Callable[[Digest], str], advance: OnBytes = no_progress) -> Digest:
        # Hashed first, because only the hash tells whether anything has to be sent.
        digest = digest_file(source)
        self.put_file(key_of(digest), source, digest, advance)
        return digest

    def get_file(self, key: str, target: Path, have: int = 0, advance: OnBytes = no_progress) -> Digest | None:
        with self._errors():
            return self._unless_missing(lambda: self._media.download(self._prefix + key, target, have, advance))

    def digest(self, key: str, advance: OnBytes = no_progress) -> Digest | None:
        with self._errors():
            return self._unless_missing(lambda: self._media.digest(self._prefix + key, advance))

    @cached_property
    def _bucket(self) -> Bucket:
        return open_bucket(self._bucket_name, environment_credentials(), _CONNECTIONS)

    @cached_property
    def _media(self) -> Media:
        return Media(self._bucket, RETRY)

    def _blob(self, key: str) -> Blob:
        return self._bucket.blob(self._prefix + key)

    def _blob_there(self, key: str) -> Blob | None:
        blob = RETRY.call(lambda: self._bucket.get_blob(self._prefix + key, retry=None, timeout=TIMEOUT))
        if blob is None:
            self._require_bucket()
        return blob

    def _unless_missing(self, operation: Callable[[], T]) -> T | None:
        try:
            return operation()
        except api.NotFound:
            self._require_bucket()
            return None

    def _page(self, prefix: str, token: str | None) -> tuple[list[Blob], str | None]:
        """One page of a listing and the token of the next page, None after the last."""
        listing = self._bucket.list_blobs(
            prefix=self._prefix + prefix, page_token=token, fields=_LISTED, retry=None, timeout=TIMEOUT
        )
        page = next(listing.pages, ())
        return list(page), listing.next_page_token

    def _stat(self, blob: Blob) -> Stat:
        version = f"{blob.generation}-{blob.metageneration}"
        key = blob.name.removeprefix(self._prefix)
        return Stat(key, blob.size, blob.updated.timestamp(), blob.crc32c, version)

    def _touch(self, blob: Blob) -> bool:
        """Marks an object as in use, unless that was done recently; False if it has been removed meanwhile."""
        if time.time() - blob.updated.timestamp() < _TOUCH_AFTER:
            return True
        blob.metadata = {**(blob.metadata or {}), "used": str(int(time.time()))}
        try:
            RETRY.call(lambda: blob.patch(if_generation_match=blob.generation, retry=None, timeout=TIMEOUT))
        except (api.NotFound, api.PreconditionFailed):
            return False
        return True

    def _send(self, blob: Blob, data: bytes, generation: int | None = None) -> None:
        """With `generation` (0: no object), writes only if the object still has it; else raises
        `PreconditionFailed`."""
        RETRY.call(
            lambda: blob.upload_from_string(
                data, content_type="application/json", if_generation_match=generation, retry=None, timeout=TIMEOUT
            )
        )

    def _conditional_write(self, key: str, data: bytes, generation: int) -> bool:
        writer = uuid.uuid4().hex
        with self._errors():
            blob = self._blob(key)
            blob.metadata = {"writer": writer}
            try:
                self._send(blob, data, generation)
            except api.PreconditionFailed:
                there = self._blob_there(key)
                return there is not None and (there.metadata or {}).get("writer") == writer
            return True

    def _require_bucket(self) -> None:
        """Raises `NotFound` if the bucket is missing: a missing object and a missing bucket both answer 404."""
        if not self._bucket_is_there:
            # A prefix with few objects, which every job's token may list.
            RETRY.call(lambda: self._page("tmp/", None))
            self._bucket_is_there = True

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except api.NotFound as e:
            raise StoreError(
                f"bucket {self._bucket_name} of store {self.uri} does not exist: create it with "
                f"`gcloud storage buckets create gs://{self._bucket_name}`, or correct AQUARAT_STORE."
            ) from e
        except (api.Unauthorized, google.auth.exceptions.GoogleAuthError) as e:
            raise StoreError(refused(self.uri, e)) from e
        except api.Forbidden as e:
            raise StoreError(forbidden(self.uri, e)) from e
        except (
            api.GoogleAPIError,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            ConnectionError,
        ) as e:
            raise StoreError(unanswered(self.uri, e)) from e
