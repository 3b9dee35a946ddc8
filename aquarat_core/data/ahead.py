"""Files of an artifact, brought into the host's cache by a thread before they are needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from aquarat_core.artifacts import Artifact
from aquarat_core.runtime.preemption import Stop

LOOK = 0.1
"""Seconds between two looks at whether the process was asked to stop, while it waits for a file."""
AGAIN = 10.0
"""Seconds until a failed fetch is tried again, if no step is waiting for the file."""


class FilesAhead:
    """Keeps the wanted files of an artifact in the cache, where they are shared by all processes of a host.

    The thread ends with the process: one that was asked to stop does not wait for the file that is being fetched.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._changed = threading.Condition()
        self._wanted: list[str] = []
        self._paths: dict[str, Path] = {}
        self._awaited: str | None = None
        self._failure: BaseException | None = None
        """Why the awaited file could not be fetched."""
        self._closed = False
        self._thread: threading.Thread | None = None

    def want(self, files: Sequence[str]) -> None:
        """Begins to fetch these files, in this order, and lets the cache remove all others."""
        with self._changed:
            self._wanted = list(dict.fromkeys(files))
            for file in self._paths.keys() - {*self._wanted}:
                del self._paths[file]
                self._artifact.release(file)
            if self._thread is None and self._next() is not None:
                self._thread = threading.Thread(target=self._fetch_wanted, name="files-ahead", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, file: str, stop: Stop) -> Path | None:
        """The local path of a wanted file, or None once `stop` returns true.

        Raises as `Artifact.path` does, if the file cannot be fetched now; an earlier failure is forgotten.
        """
        with self._changed:
            self._awaited, self._failure = file, None
            self._changed.notify_all()
            try:
                while file not in self._paths:
                    if self._failure is not None:
                        raise self._failure
                    if stop():
                        return None
                    self._changed.wait(LOOK)
                return self._paths[file]
            finally:
                self._awaited = None

    def close(self) -> None:
        """Releases all files. What is being fetched is released when it is there."""
        self.want(())
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> str | None:
        """The file to fetch now: the one that is waited for, otherwise the first that is missing."""
        missing = [file for file in self._wanted if file not in self._paths]
        return self._awaited if self._awaited in missing else next(iter(missing), None)

    def _fetch_wanted(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                file = self._next()
                if self._closed or file is None:
                    return
            path: Path | None = None
            failure: BaseException | None = None
            try:
                path = self._artifact.path(file)
            except BaseException as e:
                failure = e
            with self._changed:
                if path is None:
                    self._failed(file, failure)
                elif self._closed or file not in self._wanted:
                    self._artifact.release(file)
                else:
                    self._paths[file] = path
                    self._changed.notify_all()

    def _failed(self, file: str, failure: BaseException | None) -> None:
        if self._awaited == file:
            self._failure = failure
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._awaited != file or self._failure is None)
        else:
            self._changed.wait_for(lambda: self._closed or self._awaited is not None, AGAIN)
