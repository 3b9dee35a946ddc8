"""Looks through folders that other processes are writing to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(root: Path) -> Iterator[Path]:
    """Every file in `root` and its folders. A folder that is removed meanwhile is left out; `Path.rglob` raises."""
    for folder, _, names in os.walk(root):
        yield from (Path(folder, name) for name in names)
