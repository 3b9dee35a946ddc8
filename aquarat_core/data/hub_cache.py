"""The Hub's cache on this host: the commit at which a data set was last fetched, and whether a cached file is intact.

The Hub's clients store files by commit (`HF_HOME`), but neither which commit was current nor which files make up a
split; they ask the Hub for both each time. So the Hub's responses are stored next to their cache, in
`HF_HOME/aquarat/`, with one folder for each data set: `latest.json` names the commit, `<commit>/<subset>.json` the
files of its splits.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from aquarat_core.artifacts.files import atomic_write

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_BYTES = 16 << 20
Splits = dict[str, list[str]]
"""The files of each split, in order."""


def latest(repo: str) -> str | None:
    """The commit at which the data set was last fetched; None if it never was."""
    held = _read(_folder(repo) / "latest.json")
    commit = cast("dict[str, object]", held).get("commit") if isinstance(held, dict) else None
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


def note_latest(repo: str, commit: str) -> None:
    """Record that something from the data set was fetched at this commit."""
    if latest(repo) != commit:
        _write(_folder(repo) / "latest.json", {"commit": commit})


def splits(repo: str, commit: str, subset: str) -> Splits | None:
    """The files of the subset's splits, as recorded by `note_splits`; None if they were not recorded."""
    held = _read(_subset(repo, commit, subset))
    if not isinstance(held, dict):
        return None
    fits = all(
        isinstance(files, list) and files != [] and all(isinstance(file, str) for file in cast("list[object]", files))
        for files in cast("dict[str, object]", held).values()
    )
    return cast(Splits, held) if fits else None


def note_splits(repo: str, commit: str, subset: str, found: Splits) -> None:
    """Record the files of the subset's splits at this commit."""
    _write(_subset(repo, commit, subset), found)


def damage(path: Path) -> str | None:
    """What is wrong with a cached file; None if it is intact, or if its name is not a digest to check it against.

    The clients name a file by the Hub's digest: SHA-256 for large files, Git's SHA-1 for small ones.
    """
    try:
        name = path.resolve(strict=True).name
        if len(name) not in (40, 64) or not re.fullmatch(r"[0-9a-f]+", name):
            return None
        digest = hashlib.sha256() if len(name) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
        with path.open("rb") as f:
            while part := f.read(1 << 20):
                digest.update(part)
    except OSError as e:
        return f"it cannot be read ({e.strerror})"
    if digest.hexdigest() == name:
        return None
    return f"its {path.stat().st_size:,} bytes do not match the Hub's digest ({digest.name.upper()} {name[:12]}...)"


def _folder(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "aquarat" / f"datasets--{repo.replace('/', '--')}"


def _subset(repo: str, commit: str, subset: str) -> Path:
    return _folder(repo) / commit / f"{quote(subset, safe='')}.json"


def _read(path: Path) -> Any:
    """The JSON in the file; None if it is missing or damaged, because the Hub is then asked again."""
    try:
        with path.open("rb") as f:
            return json.loads(f.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def _write(path: Path, value: Any) -> None:
    """Writes atomically; does nothing if the cache is not writable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, private=True) as file:
            file.write(json.dumps(value).encode())
    except OSError:
        return
