"""Local files that a profile names, and the SHA-256 that identifies their content.

A stage is stale when its config changes, so the config of a stage that reads a local file contains the file's hash.
Profiles are loaded often, so a file is hashed again only if its size, change time or inode differs from the record in
`<AQUARAT_CACHE>/digests/`.
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
"""Formats by file name ending."""
ENDINGS = ", ".join(FORMATS)
_SETTLED = 2.0
"""Seconds after which a further change of a file is sure to give it another change time, on any file system."""


def format_of(name: str) -> str | None:
    """The format of a file with this name; None if its ending is not in `FORMATS`."""
    return FORMATS.get(os.path.splitext(name)[1].lower())


def check_format(name: str) -> None:
    """Raises `ValueError` if the file name does not end in a supported format."""
    if format_of(name) is None:
        raise ValueError(
            f"{name} does not end in {ENDINGS}, so its format is not known. Rename it, or write one JSON object on "
            "each line of a .jsonl file (of a JSON array: jq -c '.[]' in.json > out.jsonl)"
        )


def local_files(path: str, *, text: bool = True) -> list[tuple[str, Path]]:
    """The files that `path` stands for, by relative name: the file itself, those in a folder, or those of a pattern.

    Folders are searched to any depth and give the files with an ending in `FORMATS`, sorted by name. So do patterns, in
    which `**` stands for folders of any depth. Hidden files are left out, and without `text` the text files of folders
    and patterns, which have no rows with columns. Raises `ValueError`.
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
    formats = {kind for kind in FORMATS.values() if text or kind != "text"}
    names = {os.path.relpath(file, root): file for file in found if format_of(file) in formats and os.path.isfile(file)}
    if not names:
        endings = ", ".join(ending for ending, kind in FORMATS.items() if kind in formats)
        raise ValueError(f"{path} has no file that ends in {endings}")
    return [(name, Path(names[name])) for name in sorted(names)]


def is_pattern(path: str) -> bool:
    """Whether `path` contains wildcards."""
    return any(character in path for character in "*?[")


def fixed_part(pattern: str) -> str:
    """The folder that contains all files of a pattern."""
    return pattern[: min(pattern.index(c) for c in "*?[" if c in pattern)].rpartition("/")[0] or "/"


def combined(files: Sequence[tuple[str, str]]) -> str:
    """One SHA-256 for files given as (name, SHA-256): a single file's own, else that of the output of `sha256sum`."""
    if len(files) == 1:
        return files[0][1]
    return hashlib.sha256("".join(f"{sha256}  {name}\n" for name, sha256 in files).encode()).hexdigest()


def pin_of(path: str, *, text: bool = True) -> str:
    """`combined` for the files that `path` stands for, as in `local_files`. Raises `ValueError`."""
    try:
        return combined([(name, sha256_of(file)) for name, file in local_files(path, text=text)])
    except OSError as e:
        raise ValueError(f"{e.filename or path} cannot be read: {e.strerror or e}") from None


def _walk(folder: str) -> Iterable[tuple[str, list[str], list[str]]]:
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield at, folders, [name for name in names if not name.startswith(".")]


def sha256_of(path: Path) -> str:
    """The file's SHA-256, from its record if the file has not changed since. Raises `OSError`."""
    status = path.stat()
    state = [str(path), status.st_size, status.st_mtime_ns, status.st_ino]
    note = cache_dir() / "digests" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
    try:
        noted = json.loads(note.read_text())
        if noted["state"] == state:
            return str(noted["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # No record, or an incomplete one: hash the file.
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - status.st_mtime > _SETTLED:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps({"state": state, "sha256": sha256}))
        except OSError:
            pass  # It is hashed again next time.
    return sha256
