"""Scratch folders that do not outlive their process for long, however it ends.

A killed process removes nothing. Therefore every folder has an owner: a lock that the kernel frees when the process
that holds it ends. Before a folder is made, those without an owner are removed.

`<scratch>/<name>-XXXX/` holds `owner`, which is locked, and `files/`, the caller's working directory. `<scratch>/gate`
is locked while a folder is being made, so that the new folder does not look like one without an owner.
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
    """An empty folder below `settings.scratch_dir()`, removed afterwards; first removes folders of dead processes.

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
    """Removes folders without an owner. Each is locked meanwhile, so only one process removes it."""
    with ExitStack() as claimed:
        dead: list[Path] = []
        with _gate(root):
            for folder in filter(Path.is_dir, root.iterdir()):
                with suppress(BlockingIOError, FileNotFoundError):
                    owner = claimed.enter_context((folder / "owner").open("r+"))
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    dead.append(folder)
                with suppress(OSError):
                    folder.rmdir()  # Empty: the process that made or removed it was killed halfway.
        for folder in dead:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Removes a folder, `owner` last: a folder without that file is then empty, or was not made here."""
    shutil.rmtree(folder / "files", ignore_errors=True)
    with suppress(OSError):
        (folder / "owner").unlink()
        folder.rmdir()


@contextmanager
def _gate(root: Path) -> Generator[None]:
    with (root / "gate").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
