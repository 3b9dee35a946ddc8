"""Small JSON files of one folder, kept parsed: a look at a folder in which nothing happened costs one system call."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from aquarat_core.artifacts.files import atomic_write

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_RECENT_NS = 50_000_000
"""A folder that was changed this shortly before a look may change again with the same time of change."""


class Records(Generic[_T]):
    """The files `*.json` of a folder by their names without the ending, as they were at the last `refresh`.

    `parse` raises ValueError for bytes that are no such record. Only a power cut leaves one, because files are written
    atomically: it is reported, and removed.
    """

    def __init__(self, folder: Path, parse: Callable[[bytes], _T], *, replaced: bool = True) -> None:
        """Without `replaced`, a file is known by its inode alone, which spares a system call for each at every scan:
        for files that are removed and made again, but not twice between two looks."""
        self.items: dict[str, _T] = {}
        self._folder = folder
        self._parse = parse
        self._replaced = replaced
        self._files: dict[str, tuple[int, int, int]] = {}
        self._seen: int | None = None

    def refresh(self) -> set[str]:
        """Reads what has changed; returns the names of new, changed and removed files."""
        try:
            changed = os.stat(self._folder).st_mtime_ns
        except FileNotFoundError:
            changed = 0
        if changed == self._seen:
            return set()
        self._seen = changed if time.time_ns() - changed > _RECENT_NS else None
        found = self._scan()
        names = {name for name, signature in found.items() if self._files.get(name) != signature}
        gone = self._files.keys() - found.keys()
        self._files = found
        for name in gone:
            self.items.pop(name, None)
        for name in names:
            self._read(name)
        return names | gone

    def remove(self, name: str) -> None:
        """Removes the file and forgets it."""
        with suppress(FileNotFoundError):
            (self._folder / f"{name}.json").unlink()
        self.items.pop(name, None)
        self._files.pop(name, None)

    def _scan(self) -> dict[str, tuple[int, int, int]]:
        found: dict[str, tuple[int, int, int]] = {}
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json"):
                    with suppress(FileNotFoundError):
                        stat = entry.stat() if self._replaced else None
                        changed, size = (stat.st_mtime_ns, stat.st_size) if stat else (0, 0)
                        found[entry.name[:-5]] = entry.inode(), changed, size
        return found

    def _read(self, name: str) -> None:
        path = self._folder / f"{name}.json"
        try:
            self.items[name] = self._parse(path.read_bytes())
        except FileNotFoundError:
            self.items.pop(name, None)
        except (ValueError, RecursionError) as e:
            log.warning("the record %s cannot be read (%s): it is removed", path, " ".join(str(e).split())[:200])
            self.remove(name)


def replace(path: Path, record: object) -> None:
    """Writes a record that is worth nothing after a power cut: atomically, without waiting for the disk."""
    with atomic_write(path, private=True) as file:
        file.write(json.dumps(record).encode())
