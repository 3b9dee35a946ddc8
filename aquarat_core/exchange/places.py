"""Where a finished release is put besides the Hub: a folder, or a bucket."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from aquarat_core.artifacts import digest_file
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.errors import UsageError

OPENED_FIRST = "config.json"
"""The file without which no tool opens the folder; it is written last."""


def to_folder(folder: Path, target: Path) -> None:
    """Copies the files to a new or empty folder, which appears when it is complete. Raises `UsageError` if it cannot be
    written."""
    target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{target.name[:100]}-", dir=target.parent) as unfinished:
            copy = Path(unfinished, "release")
            shutil.copytree(folder, copy, copy_function=shutil.copyfile)  # with the usual permissions
            if target.is_dir():
                target.rmdir()
            copy.replace(target)
    except OSError as e:
        if file := next((path for path in target.parents if path.is_file()), None):
            raise UsageError(f"{file} is a file, not a folder: choose another folder with --to") from None
        raise UsageError(f"{target} cannot be written: {e.strerror or e}. Choose another folder with --to") from None


def to_bucket(folder: Path, uri: str) -> None:
    """Copies the files to objects under `uri`, those that tools open first at the end.

    Objects that are there already with the same bytes are kept, so a copy that was cut off continues. Raises
    `UsageError` if other objects are there, and `StoreError` if the bucket fails.
    """
    backend = open_backend(uri)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    if others := [key for key in backend.keys("") if key not in files]:
        raise UsageError(f"{uri} holds other files ({others[0]}): choose an empty place with --to")
    for name in sorted(files, key=lambda name: (name == OPENED_FIRST, name)):
        backend.put_file(name, files[name], digest_file(files[name]))
