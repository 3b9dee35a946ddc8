"""Transfers large objects directly over HTTP, because google-cloud-storage spends most of its time copying their bytes.

Download: ranges of one generation are fetched in parallel, then hashed and written in order as they arrive; an
interrupted range continues where it stopped. Upload: a small file is one request; a large one is sent as parallel parts
under `tmp/parts/<sha256>/`, which the bucket then composes into the object. The parts' folder is named by the content
of the whole file, so any process that sends the same file later only sends the missing parts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from google.api_core import exceptions as api

from aquarat_core.artifacts.gcs_client import session_of
from aquarat_core.artifacts.hashing import Digest, digest_bytes
from aquarat_core.artifacts.retry import CorruptedInTransit, Retry
from aquarat_core.artifacts.transfer import PIECE, HashedWriter, OnBytes, in_order, parallel_map

if TYPE_CHECKING:
    import requests

    from aquarat_core.artifacts.gcs_client import Blob, Bucket

TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and between two pieces of a response."""
RANGE = 8 << 20
ALONE = 2 * RANGE
"""Objects up to this size are read in one stream, hashed and written as they arrive."""
RANGES_AT_ONCE = max(2, min(4, os.cpu_count() or 1))
"""Parallel ranges per file. With four files at once, the ranges in flight and in the queue take less than 200 MiB of
memory. More ranges than cores only wait for each other."""
PARTS_AT_ONCE = 4
WHOLE = 64 << 20
"""Files up to this size are sent in one request."""
MAX_PARTS = 32
"""The maximum number of parts in one compose request."""
MIN_PART = 32 << 20
_TRIES_WHEN_CORRUPTED = 5


class Media:
    """Downloads from and uploads to one bucket. Raises google.api_core's errors, after `retry` has given up."""

    def __init__(self, bucket: Bucket, retry: Retry) -> None:
        self._bucket = bucket
        self._retry = retry
        self._session = session_of(bucket.client)
        base = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
        self._download = f"{base}/download/storage/v1/b/{bucket.name}/o"
        self._upload = f"{base}/upload/storage/v1/b/{bucket.name}/o"

    def read(self, name: str) -> tuple[bytes, str]:
        """A small object and its generation."""

        def once() -> tuple[bytes, str]:
            source = self._source(name)
            with source.answer:
                data = b"".join(_body(source.answer, source.size))
            _require_crc32c(source, digest_bytes(data).crc32c)
            return data, source.generation

        return self._retry.call(once)

    def download(self, name: str, target: Path, have: int, advance: OnBytes) -> Digest:
        """Writes the object to `target`, whose first `have` bytes are already there; returns the digest of all of
        it."""

        def once(have: int) -> Digest:
            source = self._retry.call(lambda: self._source(name))
            if have > source.size:
                have = 0
            with target.open("r+b" if have else "wb") as sink, HashedWriter(sink, advance) as writer:
                if have:
                    writer.keep(target, have)
                    sink.seek(have)
                return self._pass(source, have, writer)

        return _until_intact(lambda again: once(0 if again else have))

    def digest(self, name: str, advance: OnBytes) -> Digest:
        """The digest of the object's bytes, which are read but not kept."""

        def once() -> Digest:
            with HashedWriter(None, advance) as writer:
                return self._pass(self._retry.call(lambda: self._source(name)), 0, writer)

        return _until_intact(lambda _: once())

    def _source(self, name: str) -> _Source:
        answer = self._get(name, {}, {})
        size = int(answer.headers["Content-Length"])
        hashes = dict(part.split("=", 1) for part in answer.headers.get("x-goog-hash", "").split(",") if "=" in part)
        return _Source(name, answer.headers.get("x-goog-generation", ""), size, hashes.get("crc32c"), answer)

    def _pass(self, source: _Source, start: int, writer: HashedWriter) -> Digest:
        """Sends the bytes from `start` on to `writer`; the first range is read from the response that is already
        open."""
        if start:
            source.answer.close()
        if source.size - start <= ALONE:
            self._fetch(source, start, source.size, None if start else source.answer, writer.write)
        else:
            self._side_by_side(source, start, writer)
        digest = writer.digest()
        if not start:
            _require_crc32c(source, digest.crc32c)
        return digest

    def _side_by_side(self, source: _Source, start: int, writer: HashedWriter) -> None:
        ranges = [(at, min(at + RANGE, source.size)) for at in range(start, source.size, RANGE)]
        tasks = [partial(self._range, source, *r, None if n or start else source.answer) for n, r in enumerate(ranges)]
        with ThreadPoolExecutor(min(RANGES_AT_ONCE, len(tasks))) as pool:
            for pieces in in_order(pool, tasks, RANGES_AT_ONCE):
                writer.write(*pieces)

    def _range(self, source: _Source, start: int, stop: int, first: requests.Response | None) -> list[bytes]:
        pieces: list[bytes] = []
        self._fetch(source, start, stop, first, pieces.append)
        return pieces

    def _fetch(
        self,
        source: _Source,
        start: int,
        stop: int,
        first: requests.Response | None,
        take: Callable[[bytes], None],
    ) -> None:
        """Passes the bytes of a range to `take`, in order; if a response breaks off, the rest is requested again."""
        at = start
        opened = [first] if first is not None else []

        def once() -> None:
            nonlocal at
            answer = opened.pop() if opened else self._get_range(source, at, stop)
            with answer:
                for piece in _body(answer, stop - at):
                    take(piece)
                    at += len(piece)

        if start < stop or opened:
            self._retry.call(once, progress=lambda: at)

    def _get_range(self, source: _Source, start: int, stop: int) -> requests.Response:
        parameters = {"generation": source.generation} if source.generation else {}
        return self._get(source.name, parameters, {"Range": f"bytes={start}-{stop - 1}"})

    def _get(self, name: str, parameters: dict[str, str], headers: dict[str, str]) -> requests.Response:
        answer = self._session.get(
            f"{self._download}/{quote(name, safe='')}",
            params={"alt": "media", **parameters},
            headers={"Accept-Encoding": "identity", **headers},
            stream=True,
            timeout=TIMEOUT,
        )
        if answer.status_code != (206 if "Range" in headers else 200):
            raise _error(answer)
        return answer

    def upload(
        self, name: str, source: Path, digest: Digest, generation: int, parts: str, advance: OnBytes
    ) -> tuple[int, str]:
        """Makes the object from the file if its generation is still `generation` (0: it does not exist).

        Parts go under the prefix `parts`. Returns size and CRC-32C of the object in the bucket; raises
        `PreconditionFailed` if another writer was first.
        """
        if digest.size <= WHOLE:
            return self._send(name, _Body(source, 0, digest.size, advance), generation)
        size = max(MIN_PART, -(-digest.size // MAX_PARTS))
        starts = range(0, digest.size, size)
        names = [f"{parts}{start:015d}" for start in starts]
        there = {b.name: b.size for b in self._below(parts)}

        def send(n: int) -> None:
            length = min(size, digest.size - starts[n])
            if there.get(names[n]) == length:
                return advance(length)
            self._send(names[n], _Body(source, starts[n], length, advance), None)

        parallel_map(send, range(len(names)), PARTS_AT_ONCE)
        blob = self._bucket.blob(name)
        blob.content_type = "application/octet-stream"
        composed = [self._bucket.blob(n) for n in names]
        self._retry.call(lambda: blob.compose(composed, if_generation_match=generation, retry=None, timeout=300))
        self.discard(parts)
        return blob.size, blob.crc32c

    def discard(self, parts: str) -> None:
        """Removes the parts under a prefix."""

        def remove(blob: Blob) -> None:
            try:
                self._retry.call(lambda: blob.delete(retry=None))
            except api.NotFound:
                return

        parallel_map(remove, self._below(parts), 8)

    def _below(self, prefix: str) -> list[Blob]:
        return self._retry.call(lambda: list(self._bucket.list_blobs(prefix=prefix, retry=None)))

    def _send(self, name: str, body: _Body, generation: int | None) -> tuple[int, str]:
        condition = {} if generation is None else {"ifGenerationMatch": str(generation)}

        def once() -> tuple[int, str]:
            answer = self._session.post(
                self._upload,
                params={"uploadType": "media", "name": name, **condition},
                data=body if body.length else b"",
                headers={"Content-Type": "application/octet-stream"},
                timeout=TIMEOUT,
            )
            if answer.status_code != 200:
                raise _error(answer)
            made = answer.json()
            return int(made["size"]), made["crc32c"]

        return self._retry.call(once)


@dataclass(frozen=True, slots=True)
class _Source:
    """An object to read: one generation of it, and the open response that begins with its first byte."""

    name: str
    generation: str
    size: int
    crc32c: str | None
    answer: requests.Response


class _Body:
    """A range of a file as the body of a request; each iteration starts from its beginning."""

    def __init__(self, path: Path, start: int, length: int, advance: OnBytes) -> None:
        self.length = length
        self._path, self._start, self._advance = path, start, advance
        self._sent = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[bytes]:
        self._advance(-self._sent)
        self._sent = 0
        with self._path.open("rb", buffering=0) as f:
            f.seek(self._start)
            left = self.length
            while left and (piece := f.read(min(PIECE, left))):
                left -= len(piece)
                yield piece
                self._sent += len(piece)
                self._advance(len(piece))


def _body(answer: requests.Response, length: int) -> Iterator[bytes]:
    """Exactly `length` bytes of a response. Raises `ConnectionError` if it ends early."""
    while length:
        piece = answer.raw.read(min(PIECE, length))
        if not piece:
            raise ConnectionError(f"the response ended {length} bytes early")
        length -= len(piece)
        yield piece


def _require_crc32c(source: _Source, crc32c: str) -> None:
    if source.crc32c not in (None, crc32c):
        raise CorruptedInTransit(f"{source.name} arrived with CRC-32C {crc32c}, but the bucket has {source.crc32c}")


def _until_intact(operation: Callable[[bool], Digest]) -> Digest:
    """Returns `operation(again)`, repeated a few times if its bytes were corrupted in transit."""
    for tries in range(_TRIES_WHEN_CORRUPTED - 1):
        try:
            return operation(tries > 0)
        except CorruptedInTransit:
            continue
    return operation(True)


def _error(answer: requests.Response) -> api.GoogleAPICallError:
    with answer:
        # google-api-core leaves the parameter's type out.
        error = api.from_http_response(answer)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return cast(api.GoogleAPICallError, error)
