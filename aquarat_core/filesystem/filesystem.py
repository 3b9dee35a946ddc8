"""The file system that fsspec loads for `aquarat://`.

Opening a file gives a verified local copy in the cache: its bytes are hashed while they are fetched and never held in
memory, and reads or memory maps use an ordinary file of the operating system.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.filesystem.base import AbstractFileSystem
from aquarat_core.filesystem.errors import FolderError, NoSuchPathError, ReadOnlyError, UnreadableError, as_os_errors
from aquarat_core.filesystem.paths import Info, Place, contents, folder, place_of
from aquarat_core.settings import cache_dir, cache_limit, store_uri


class AquaratFileSystem(AbstractFileSystem):
    """The artifacts of one store, read-only.

    A path without a manifest hash is resolved again at each access, so a new latest artifact is visible at once; an
    open file does not change.

    Raises `NoSuchPathError` (a `FileNotFoundError`), `FolderError` (an `IsADirectoryError`), and `UnreadableError` (an
    `OSError`) for a damaged artifact or a store that cannot be used. Methods that write raise `ReadOnlyError`.
    """

    protocol = "aquarat"
    cachable = False
    """Otherwise fsspec would reuse the first instance, and with it a store that `AQUARAT_STORE` no longer names."""

    def __init__(self, store: str | None = None, **options: Any) -> None:
        """`store` is a URI for `ArtifactStore.open`; the default is the store that `AQUARAT_STORE` names."""
        super().__init__(**options)
        self.store_uri = store or store_uri()
        # `fsspec.open_local` looks for this attribute on the instance: the name of an open file is a local path.
        # `datasets`
        # looks for it on the class, where it would make the URL itself look like a local path.
        self.local_file = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets the URI and opens the store itself, with its own credentials."""
        return type(self), (self.store_uri,)

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """For `to_json`: as in `__reduce__`, the store is the one that this file system reads."""
        return super().to_dict(include_password=include_password) | {"args": (), "store": self.store_uri}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AquaratFileSystem) and self.store_uri == other.store_uri

    def __hash__(self) -> int:
        return hash((type(self), self.store_uri))

    @property
    def fsid(self) -> str:
        return f"{self.protocol}:{self.store_uri}"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        if isinstance(stripped, str):
            return "/".join(part for part in stripped.split("/") if part)
        return stripped

    # --- looking ------------------------------------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The infos (or only the names) of a folder's entries, sorted by name."""
        path = self._strip_protocol(path)
        with as_os_errors():
            store = self._open_store()
            place = place_of(store, path)
            found = place.listing() if place else contents(store, path)
        return found if detail else [info["name"] for info in found]

    def info(self, path: str, **_: Any) -> Info:
        """`name`, `size` in bytes and `type` ("file" or "directory"); within an artifact also `manifest_sha256` and
        `created` (ISO 8601); for a file also its `sha256`, repeated as `ETag`."""
        path = self._strip_protocol(path)
        with as_os_errors():
            place = place_of(self._open_store(), path)
            return place.info() if place else folder(path)

    def walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = "omit", **kwargs: Any
    ) -> Iterator[tuple[str, Any, Any]]:
        """As in fsspec, but `on_error` "omit" leaves out only missing paths. `find` and `glob` are built on this."""
        omit = _raise_unless_missing if on_error == "omit" else on_error
        return super().walk(path, maxdepth=maxdepth, topdown=topdown, on_error=omit, **kwargs)

    # fsspec's own method answers "no" even if the store cannot be reached.

    def exists(self, path: str, **_: Any) -> bool:
        return self._type(path) is not None

    def isdir(self, path: str) -> bool:
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        return self._type(path) == "file"

    def _type(self, path: str) -> str | None:
        try:
            return self.info(path)["type"]
        except FileNotFoundError:
            return None

    def pinned(self, path: str) -> str:
        """The URL that always means the same bytes, with the hash of the manifest that the path leads to now.

        For readers that cache by URL, and for several reads that must all see the same artifact.
        """
        with as_os_errors():
            place = place_of(self._open_store(), self._strip_protocol(path))
        if place is None:
            raise FolderError(f"{self.unstrip_protocol(path)} lists artifacts: name one of them")
        place.info()
        return self.unstrip_protocol(place.pinned)

    def ukey(self, path: str) -> str:
        """The SHA-256 of a file; for a folder in an artifact, a hash that changes with the artifact."""
        return self.info(path).get("sha256") or super().ukey(path)

    def checksum(self, path: str) -> int:
        return int(self.ukey(path), 16)

    def created(self, path: str) -> datetime:
        """When the artifact at this path was published."""
        info = self.info(path)
        if "created" not in info:
            url = self.unstrip_protocol(info["name"])
            raise FolderError(f"{url} has no creation time: only artifacts and their files have one")
        try:
            return datetime.fromisoformat(info["created"])
        except ValueError:
            which = f"manifest {info['manifest_sha256']} in {self.store_uri}"
            wrong = f"says that it was created at {info['created']!r}, which is not a valid time"
            raise UnreadableError(f"{which} {wrong}: materialize its asset again") from None

    def modified(self, path: str) -> datetime:
        """The same as `created`: artifacts do not change."""
        return self.created(path)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _open(self, path: str, mode: str = "rb", *_: Any, **__: Any) -> ArtifactFile:
        if mode != "rb":
            self._refuse()
        path = self._strip_protocol(path)
        with as_os_errors():
            place = place_of(self._open_store(), path)
            if place is None or place.info()["type"] == "directory":
                raise FolderError(f"{self.unstrip_protocol(path)} is a folder: name a file in it")
            return ArtifactFile(self, place)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes from `start` to `end`, with the meaning that they have in a slice."""
        with self._open(path) as file:
            return file.read_range(start, end)

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | list[int],
        ends: int | list[int],
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """The bytes of each range. All ranges of one path come from the same artifact; `max_gap` is ignored."""
        firsts = starts if isinstance(starts, list) else [starts] * len(paths)
        lasts = ends if isinstance(ends, list) else [ends] * len(paths)
        wanted: dict[str, list[int]] = {}
        for i, (path, _first, _last) in enumerate(zip(paths, firsts, lasts, strict=True)):
            wanted.setdefault(path, []).append(i)
        found: list[Any] = [b""] * len(paths)
        for path, indices in wanted.items():
            try:
                with self._open(path) as file:
                    for i in indices:
                        found[i] = file.read_range(firsts[i], lasts[i])
            except OSError as e:
                if on_error == "raise":
                    raise
                for i in indices:
                    found[i] = e
        return found

    def _open_store(self) -> ArtifactStore:
        return _store(self.store_uri, str(cache_dir()), cache_limit(), os.getpid())

    # --- writing ------------------------------------------------------------------------------------------------------

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ReadOnlyError("aquarat:// is read-only: an artifact is made by materializing its asset and never changes")

    mkdir = makedirs = rmdir = touch = _refuse
    pipe = pipe_file = put = put_file = _refuse
    copy = cp_file = mv = rm = rm_file = _rm = _refuse


class ArtifactFile(io.BufferedReader):
    """A file of an artifact, open for reading. `name` is its local copy; `size` is in bytes; `details` is its info."""

    def __init__(self, fs: AquaratFileSystem, place: Place) -> None:
        """Fetches the file if it is not in the cache. Raises as `Artifact.path` does."""
        super().__init__(io.FileIO(str(place.local_copy())))
        self.fs = fs
        self.details = place.info()
        self.size: int = self.details["size"]
        self._pinned = place.pinned

    def read_range(self, start: int | None, end: int | None) -> bytes:
        """The bytes that a slice from `start` to `end` would return."""
        first, last, _ = slice(start, end).indices(self.size)
        self.seek(first)
        return self.read(max(0, last - first))

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets another process open the same artifact's file at the same position."""
        return _reopen, (self.fs, self._pinned, self.tell())


def _reopen(fs: AquaratFileSystem, path: str, position: int) -> ArtifactFile:
    file = fs.open(path)
    file.seek(position)
    return file


@lru_cache(maxsize=16)
def _store(uri: str, cache: str, limit: int, process: int) -> ArtifactStore:
    """One store for all file systems of a process, so that a cached file is verified only once.

    A forked process opens its own store, because connections cannot be shared. `cache` and `limit` are the settings
    that `open` reads from the environment; they are parameters so that a change opens a new store.
    """
    return ArtifactStore.open(uri)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, NoSuchPathError):
        raise error
