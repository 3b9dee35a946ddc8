"""The part of google-cloud-storage that is used here, with types, because its own functions have none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Protocol, cast

import requests
from google.auth.credentials import Credentials
from google.cloud import storage  # pyright: ignore[reportMissingTypeStubs]  # it has none
from requests.adapters import HTTPAdapter

Timeout = float | tuple[float, float]
"""Seconds to connect and between two pieces of a response, or one number for both."""


class Blob(Protocol):
    """An object in a bucket, or its name and the data to be written there."""

    name: str
    metadata: dict[str, str] | None
    content_type: str | None
    size: int
    crc32c: str
    generation: int
    metageneration: int
    updated: datetime

    def delete(
        self,
        *,
        if_generation_match: int | None = None,
        if_metageneration_match: int | None = None,
        retry: None,
        timeout: Timeout = ...,
    ) -> None: ...

    def patch(self, *, if_generation_match: int | None, retry: None, timeout: Timeout) -> None: ...

    def upload_from_string(
        self,
        data: bytes,
        *,
        content_type: str,
        if_generation_match: int | None = None,
        retry: None,
        timeout: Timeout,
    ) -> None: ...

    def compose(self, sources: Sequence[Blob], *, if_generation_match: int, retry: None, timeout: Timeout) -> None: ...


class Listing(Protocol):
    """The objects of a listing, in pages that are fetched on demand."""

    pages: Iterator[Iterable[Blob]]
    next_page_token: str | None

    def __iter__(self) -> Iterator[Blob]: ...


class Bucket(Protocol):
    name: str
    client: Client

    def blob(self, blob_name: str) -> Blob: ...

    def get_blob(self, blob_name: str, *, retry: None, timeout: Timeout) -> Blob | None: ...

    def list_blobs(
        self,
        *,
        prefix: str,
        page_token: str | None = None,
        fields: str | None = None,
        retry: None,
        timeout: Timeout = ...,
    ) -> Listing: ...


class Client(Protocol):
    _http: requests.Session

    def bucket(self, bucket_name: str) -> Bucket: ...


def open_bucket(name: str, credentials: Credentials | None, connections: int) -> Bucket:
    """The bucket, with at most `connections` at a time; sends nothing yet."""
    # Otherwise the client requests the bucket's metadata for its traces, which needs another permission.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    client = cast(Client, storage.Client(project=None, credentials=credentials))
    session = session_of(client)
    session.mount("https://", HTTPAdapter(pool_maxsize=connections))
    session.mount("http://", HTTPAdapter(pool_maxsize=connections))
    return client.bucket(name)


def session_of(client: Client) -> requests.Session:
    """The session in which the client sends its requests, with its credentials. There is no public access to it."""
    return client._http  # pyright: ignore[reportPrivateUsage]
