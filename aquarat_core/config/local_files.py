"""Files on this machine that a profile names, and the SHA-256 that stands for their bytes.

A stage is stale when its config changes, so the config of a stage that reads a local file holds the hash of the file.
Profiles are loaded often: a file is hashed again only when its size, its time of change or its inode differs from what
was noted in `<AQUARAT_CACHE>/digests/`.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from aquarat_core.settings import cache_dir

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
"""What a file holds, by the end of its name."""
ENDINGS = ", ".join(FORMATS)
_SETTLED = 2.0
"""Seconds after which a file's time of change tells a further change from the last one, on any file system."""


def format_of(name: str) -> str | None:
    """The format of the file of this name; None if its ending is none of `FORMATS`."""
    return FORMATS.get(os.path.splitext(name)[1].lower())


def check_format(name: str) -> None:
    """Raises `ValueError` for a file whose name does not tell a format that is read."""
    if format_of(name) is None:
        raise ValueError(
            f"{name} does not end in {ENDINGS}, so its format is not known. Rename it, or write one JSON object on "
            "each line of a .jsonl file (of a JSON array: jq -c '.[]' in.json > out.jsonl)"
        )


def local_files(path: str) -> list[tuple[str, Path]]:
    """The files that `path` stands for, by their names in it: the file itself, those in a folder, or a pattern's.

    Folders are searched to any depth and give the files with an ending of `FORMATS`, in the order of their names; so
    do patterns, in which `**` stands for folders of any depth. Hidden files are left out. Raises `ValueError`.
    """
    if os.path.isfile(path):
        check_format(path)
        return [(os.path.basename(path), Path(path))]
    if os.path.isdir(path):
        root, found = path, (os.path.join(folder, name) for folder, _, names in _walk(path) for name in names)
    elif is_pattern(path):
        root, found = fixed_part(path), glob.iglob(path, recursive=True)
    else:
        raise ValueError(
            f"there is no file {path}. Write the path of a file, a folder or a pattern. If it was removed because its "
            "artifact is complete, write path#sha256=<SHA-256 of the file>, and the artifact stays fresh"
        )
    names = {os.path.relpath(file, root): file for file in found if format_of(file) and os.path.isfile(file)}
    if not names:
        raise ValueError(f"{path} has no file that ends in {ENDINGS}")
    return [(name, Path(names[name])) for name in sorted(names)]


def is_pattern(path: str) -> bool:
    """Whether `path` has characters that stand for others."""
    return any(character in path for character in "*?[")


def fixed_part(pattern: str) -> str:
    """The folder that all files of a pattern are in."""
    return pattern[: min(pattern.index(c) for c in "*?[" if c in pattern)].rpartition("/")[0] or "/"


def combined(files: Sequence[tuple[str, str]]) -> str:
    """One SHA-256 for files given as (name, SHA-256): a single one's own, else that of what `sha256sum` prints."""
    if len(files) == 1:
        return files[0][1]
    return hashlib.sha256("".join(f"{sha256}  {name}\n" for name, sha256 in files).encode()).hexdigest()


def pin_of(path: str) -> str:
    """`combined` of the files that `path` stands for. Raises `ValueError`."""
    try:
        return combined([(name, _sha256(file)) for name, file in local_files(path)])
    except OSError as e:
        raise ValueError(f"{e.filename or path} cannot be read: {e.strerror or e}") from None


def _walk(folder: str) -> Iterable[tuple[str, list[str], list[str]]]:
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield at, folders, [name for name in names if not name.startswith(".")]


def _sha256(path: Path) -> str:
    """The file's SHA-256, from the note of it where the file has not changed since. Raises `OSError`."""
    status = path.stat()
    state = [str(path), status.st_size, status.st_mtime_ns, status.st_ino]
    note = cache_dir() / "digests" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
    try:
        noted = json.loads(note.read_text())
        if noted["state"] == state:
            return str(noted["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # No note, or one that was cut off: the file decides.
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - status.st_mtime > _SETTLED:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps({"state": state, "sha256": sha256}))
        except OSError:
            pass  # It is hashed again next time.
    return sha256
