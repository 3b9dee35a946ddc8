"""Looks through folders that other processes are writing to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def files_below(root: Path) -> Iterator[Path]:
    """Every file in `root` and its folders. A folder that is removed meanwhile is left out; `Path.rglob` raises."""
    for folder, _, names in os.walk(root):
        yield from (Path(folder, name) for name in names)


def contents_below(root: Path) -> dict[Path, bytes]:
    """The bytes of every regular file in `root` and its folders, without files that are removed meanwhile."""
    found: dict[Path, bytes] = {}
    for path in files_below(root):
        with suppress(FileNotFoundError):
            if path.is_file():
                found[path] = path.read_bytes()
    return found
