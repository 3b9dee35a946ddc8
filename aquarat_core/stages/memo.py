"""Stores parsed sources in a file, so that a process only parses what has changed since the last one.

Parsing all of our sources takes a few tenths of a second, which would slow every command and every Dagster worker.
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from aquarat_core.artifacts.files import atomic_write
from aquarat_core.stages import parsing
from aquarat_core.stages.parsing import Import, Parsed


class Memo:
    """Parsed files by the SHA-256 of their text, in the file at `path`. Without a path, or if that file cannot be read
    or written, everything is parsed again."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known = _load(path) if path else {}
        self._used: dict[str, Parsed] = {}

    def parse(self, source: bytes, package: str) -> Parsed:
        """Same as `parsing.parse`, but cached."""
        key = hashlib.sha256(f"{package}\0".encode() + source).hexdigest()
        if key not in self._used:
            self._used[key] = self._known.get(key) or parsing.parse(source.decode(), package)
        return self._used[key]

    @property
    def has_news(self) -> bool:
        """Whether anything was parsed that the file does not contain yet."""
        return self._path is not None and not self._used.keys() <= self._known.keys()

    def save(self) -> None:
        """Writes the file with the entries that this process has used."""
        if self._path is None:
            return
        content = json.dumps({"reader": _reader(), "files": self._used})
        self._known = dict(self._used)
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path) as file:
                file.write(content.encode())


def _reader() -> str:
    """Identifies the code that made the entries: another version of Python or of the parser makes others."""
    return hashlib.sha256(Path(parsing.__file__).read_bytes() + sys.version.encode()).hexdigest()


def _load(path: Path) -> dict[str, Parsed]:
    try:
        held = json.loads(path.read_bytes())
        return {key: _entry(*value) for key, value in held["files"].items()} if held["reader"] == _reader() else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _entry(
    imports: list[list[Any]], passed: dict[str, list[Any]], only: bool, dotted: list[str], digest: str, quiet: str
) -> Parsed:
    passes_on = {name: Import(*value) for name, value in passed.items()}
    return Parsed(tuple(Import(*i) for i in imports), passes_on, only, tuple(dotted), digest, quiet)
