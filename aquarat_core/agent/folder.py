"""The host's access to a job's folder in the store, without libraries: `file://` by rename, `gs://` over HTTP.

The control host uses `aquarat_core.artifacts.JobDir`. Both write the same small JSON objects atomically.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from http.client import HTTPResponse

HTTP_SECONDS = 15.0
CHUNK_BYTES = 1 << 18
MAX_BYTES = 16 << 20
"""Size limit for reading an object; a chunk of output, the largest kind, has less than two million bytes."""


class FolderError(OSError):
    """The store could not be reached or refused a request; trying again may help."""


class BrokenObject(FolderError):
    """An object that is not JSON, or too large to be written by aquarat."""


def _parsed(where: str, data: bytes) -> Any:
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES} bytes")
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise BrokenObject(f"{where} cannot be read: {e}") from None


def open_folder(uri: str, token: Callable[[], str | None]) -> FileFolder | GcsFolder:
    """The folder at `file:///path` or `gs://bucket/prefix`; `token` gives the current bearer token."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return FileFolder(Path(rest))
    if scheme == "gs":
        bucket, _, prefix = rest.partition("/")
        return GcsFolder(bucket, prefix, token)
    raise ValueError(f"a host can reach file:// and gs:// stores, not {uri!r}")


class FileFolder:
    """A folder in a file system that is mounted on this host."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> Any | None:
        """The object, or None if there is none."""
        try:
            with (self._path / name).open("rb") as f:
                data = f.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        return _parsed(str(self._path / name), data)

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of an object of any size and kind, piece by piece."""
        with (self._path / name).open("rb") as f:
            while data := f.read(CHUNK_BYTES):
                yield data

    def write(self, name: str, obj: Any) -> None:
        """Writes or replaces the object."""
        self._put(name, obj, os.replace)

    def create(self, name: str, obj: Any) -> bool:
        """Creates the object unless it exists; of any number of writers, exactly one gets True."""
        try:
            self._put(name, obj, os.link)
        except FileExistsError:
            return False
        return True

    def _put(self, name: str, obj: Any, place: Callable[[str, Path], None]) -> None:
        target = self._path / name
        _make_directories(target.parent)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".")
        try:
            with os.fdopen(handle, "w") as f:
                json.dump(obj, f)
            os.chmod(temporary, 0o444 & target.parent.stat().st_mode)
            place(temporary, target)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)


def _make_directories(folder: Path) -> None:
    """Creates `folder` with its parents, each with its parent's permissions, regardless of the umask."""
    if folder.is_dir():
        return
    _make_directories(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(folder.parent.stat().st_mode & 0o2777)


class GcsFolder:
    """A prefix of a bucket, over the JSON API."""

    def __init__(self, bucket: str, prefix: str, token: Callable[[], str | None]) -> None:
        # Imported only where needed, because HTTP would double the time of every call to the agent.
        import urllib.parse

        self._quote = urllib.parse.quote
        self._server = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
        self._bucket = self._quote(bucket, safe="")
        self._prefix = prefix
        self._token = token

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of an object of any size and kind, piece by piece."""
        with self._open("GET", self._media(name), None) as answer:
            while data := answer.read(CHUNK_BYTES):
                yield data

    def read(self, name: str) -> Any | None:
        """The object, or None if there is none."""
        found = self._call("GET", self._media(name), None, absent=404)
        return None if found is None else _parsed(f"{self._bucket}/{self._prefix}/{name}", found)

    def write(self, name: str, obj: Any) -> None:
        """Writes or replaces the object."""
        self._upload(name, obj, "")

    def create(self, name: str, obj: Any) -> bool:
        """Creates the object unless it exists; of any number of writers, exactly one gets True."""
        return self._upload(name, obj, "&ifGenerationMatch=0") is not None

    def _upload(self, name: str, obj: Any, condition: str) -> bytes | None:
        path = f"/upload/storage/v1/b/{self._bucket}/o?uploadType=media&name={self._quoted(name)}{condition}"
        return self._call("POST", path, json.dumps(obj).encode(), absent=412)

    def _media(self, name: str) -> str:
        return f"/storage/v1/b/{self._bucket}/o/{self._quoted(name)}?alt=media"

    def _quoted(self, name: str) -> str:
        return self._quote(f"{self._prefix}/{name}", safe="")

    def _call(self, method: str, path: str, body: bytes | None, absent: int) -> bytes | None:
        import urllib.error

        try:
            with self._open(method, path, body) as answer:
                return answer.read(MAX_BYTES + 1)
        except urllib.error.HTTPError as e:
            if e.code == absent:
                return None
            raise FolderError(f"{method} of {self._bucket}/{self._prefix} answered {e.code}") from None
        except OSError as e:
            raise FolderError(f"{self._server} cannot be reached: {e}") from None

    def _open(self, method: str, path: str, body: bytes | None) -> HTTPResponse:
        import urllib.request

        request = urllib.request.Request(self._server + path, data=body, method=method)
        request.add_header("Content-Type", "application/json")
        token = self._token()
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=HTTP_SECONDS)
        return answer
