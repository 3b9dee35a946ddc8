"""Files at URLs, through fsspec: listed, then downloaded completely to a local file, with bounded retries.

A file is downloaded before any of it is read, so that a broken connection costs a retry and never a row, and its hash
is known first. Credentials come from the environment, as each storage client finds them; messages never contain the
user, the password or the query of a URL.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from aquarat_core.config.local_files import ENDINGS, check_format, fixed_part, format_of, is_pattern
from aquarat_core.config.locations import is_loopback, without_secrets
from aquarat_core.data.hub_client import WAITS, Log
from aquarat_core.errors import DataError
from aquarat_core.plain_text import first_line

Result = TypeVar("Result")
_TRY_LATER = (408, 429)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file at a URL."""

    name: str
    """Name relative to the folder or pattern that found it."""
    where: str
    """The URL that was requested, for messages."""
    path: str
    """The file system's own name for it."""
    fs: Any
    """The `fsspec.AbstractFileSystem` that holds it; fsspec has no types."""

    def fetch(self, to: Path, log: Log) -> None:
        """Write the file's bytes to `to`. Raises `DataError` if that fails."""
        _with_retries(lambda: self.fs.get_file(self.path, str(to)), f"{self.where}, {self.name}", log)


def remote_file(url: str) -> RemoteFile:
    """The one file at `url`, whatever its ending; whether it is there shows when it is fetched.

    Raises `DataError` where the file system's package is not installed.
    """
    fs, path = _file_system(url)
    return RemoteFile(urlsplit(url).path.rpartition("/")[2], without_secrets(url), path, fs)


def remote_files(url: str, log: Log) -> list[RemoteFile]:
    """The files that `url` stands for, sorted by name: a single file, the files in a folder, or those of a pattern.

    For folders and patterns, only files with supported extensions. Raises `DataError` if there is none, or if the
    location cannot be reached.
    """
    if url.startswith(("http://", "https://")):
        return [remote_file(url)]
    fs, path = _file_system(url)
    where = without_secrets(url)
    root, found = _with_retries(lambda: _listed(fs, path), where, log)
    if root is None:
        try:
            check_format(path)
        except ValueError as e:
            raise DataError(str(e)) from None
        return [RemoteFile(path.rpartition("/")[2], where, path, fs)]
    names = {file.removeprefix(root).lstrip("/"): file for file in found if format_of(file)}
    shown = [name for name in sorted(names) if not any(part.startswith(".") for part in name.split("/"))]
    if not shown:
        raise DataError(f"{where}: no file ends in {ENDINGS}. Check the location")
    return [RemoteFile(name, where, names[name], fs) for name in shown]


def _listed(fs: Any, path: str) -> tuple[str | None, list[str]]:
    """The folder and the paths of the files in it; no folder if `path` is a file itself."""
    if is_pattern(path):
        return fixed_part(path), list(fs.glob(path))
    if fs.isfile(path):
        return None, [path]
    return path.rstrip("/"), list(fs.find(path))


def _file_system(url: str) -> tuple[Any, str]:
    """The URL's file system and the path in it. Raises `DataError` if its package is not installed."""
    import fsspec  # pyright: ignore[reportMissingTypeStubs]  # it has none

    scheme = urlsplit(url).scheme
    # Listings cached by an earlier stage in the same process may be outdated.
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme in ("http", "https"):
        options = {"skip_instance_cache": True, "get_client": _http_client}
    elif scheme == "memory":
        options = {}
    try:
        return fsspec.core.url_to_fs(url, **options)  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    except ImportError as e:
        extra = {"gs": "'aquarat[gcp]'", "http": "'aquarat[train]'", "https": "'aquarat[train]'", "s3": "s3fs"}
        raise DataError(
            f"{without_secrets(url)}: {scheme}:// needs a package that is not installed ({first_line(e)}). Install it "
            f"in the environment of the host that runs this stage: pip install {extra.get(scheme, 'PACKAGE')}"
        ) from None


async def _http_client(**arguments: Any) -> Any:
    """A client without a limit on the total time of a transfer, which rejects redirects from https:// to http://."""
    import aiohttp

    async def check(session: object, context: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
        to = urlsplit(urljoin(str(redirect.url), redirect.response.headers.get("Location", "")))
        if to.scheme != "https" and not is_loopback(to.hostname or ""):
            raise DataError(f"{redirect.url.host} redirects to {to.scheme}://{to.hostname}, and only https:// is read")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    limits = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    arguments.pop("loop", None)
    return aiohttp.ClientSession(timeout=limits, trust_env=True, trace_configs=[trace], **arguments)


def _with_retries(action: Callable[[], Result], where: str, log: Log) -> Result:
    """Calls `action`, again after errors that may pass; otherwise raises `DataError` that names `where`."""
    for wait in (*WAITS, None):
        try:
            return action()
        except DataError as e:
            raise DataError(f"{where}: {e}. Check the location") from None
        # Each storage client has its own exceptions, without a common base class.
        except Exception as e:
            said = without_secrets(first_line(e))
            status: object = getattr(e, "status", None) or getattr(e, "code", None)
            if isinstance(e, FileNotFoundError):
                raise DataError(f"{where}: there is no such file. Check the location") from None
            refused = isinstance(status, int) and 400 <= status < 500 and status not in _TRY_LATER
            if isinstance(e, PermissionError) or refused:
                raise DataError(f"{where}: refused ({said}). Check the credentials in the environment") from None
            if wait is None:
                raise DataError(
                    f"{where}: not delivered in {len(WAITS) + 1} tries (last error: {said}). Check the network, or "
                    "start again later"
                ) from None
            log(f"{where}: {said}; trying again in {wait} s")
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")
