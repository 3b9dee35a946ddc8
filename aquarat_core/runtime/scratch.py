"""Folders to work in that do not outlive their process for long, however it ends.

A killed process removes nothing. So every folder has an owner: a lock that the kernel frees with the process that
holds it. Making a folder first removes those that have no owner any more.

`<scratch>/<name>-XXXX/` holds `owner`, which is locked, and `files/`, which is what a caller works in; `<scratch>/gate`
is held while a folder is being made, so that it is not taken for one without an owner.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from aquarat_core import settings
from aquarat_core.artifacts.errors import os_errors


@contextmanager
def scratch_folder(name: str) -> Generator[Path]:
    """An empty folder below `settings.scratch_dir()`, removed afterwards; folders of dead processes are removed first.

    Raises `StoreError` if the directory cannot be used, `HostDiskFullError` if its disk is full.
    """
    root = settings.scratch_dir()
    with ExitStack() as held:
        remedy = "Set AQUARAT_SCRATCH to a directory with room."
        with os_errors(f"scratch directory {root}", remedy, of_host=True):
            root.mkdir(parents=True, exist_ok=True)
            _sweep(root)
            with _gate(root):
                folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
                owner = held.enter_context((folder / "owner").open("w"))
                fcntl.flock(owner, fcntl.LOCK_EX)
            held.callback(_remove, folder)
            files = folder / "files"
            files.mkdir()
        yield files


def _sweep(root: Path) -> None:
    """Removes the folders without an owner. They are locked meanwhile, so that each is removed by one process."""
    with ExitStack() as claimed:
        dead: list[Path] = []
        with _gate(root):
            for folder in filter(Path.is_dir, root.iterdir()):
                with suppress(BlockingIOError, FileNotFoundError):
                    owner = claimed.enter_context((folder / "owner").open("r+"))
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    dead.append(folder)
                with suppress(OSError):
                    folder.rmdir()  # Empty: the process that made or removed it was killed half-way.
        for folder in dead:
            _remove(folder)


def _remove(folder: Path) -> None:
    """The owner last: what has none is empty, or not ours."""
    shutil.rmtree(folder / "files", ignore_errors=True)
    with suppress(OSError):
        (folder / "owner").unlink()
        folder.rmdir()


@contextmanager
def _gate(root: Path) -> Generator[None]:
    with (root / "gate").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
