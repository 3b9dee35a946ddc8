"""The thread that communicates with the store: heartbeats, chunks of output, and requests to stop.

It may hang on a dead network for as long as HTTP allows. The supervisor's loop never hangs, because it only reads the
time of the last heartbeat from here.
"""

from __future__ import annotations

import mmap
import struct
import time
from threading import Event, Thread
from typing import TYPE_CHECKING

from . import leases
from .folder import BrokenObject, FileFolder, GcsFolder
from .output import CHUNK_BYTES, Output

if TYPE_CHECKING:
    from .protocol import Chunk, NodeEnd, NodeFacts, RunningStatus

RETRY_SECONDS = 1.0


class StatusUploader:
    """`contact` is the time (`leases.now`) at which the last successful heartbeat was started."""

    def __init__(self, folder: FileFolder | GcsFolder, output: Output, facts: NodeFacts, heartbeat: float) -> None:
        # Shared with the watchdog, which is forked later.
        self._contact = mmap.mmap(-1, 8)
        self.contact = leases.now()
        self.cancelled = False
        self.chunks = 0
        self._folder = folder
        self._node = facts["node"]
        self._output = output
        self._facts = facts
        self._heartbeat = heartbeat
        self._sequence = 0
        self._started = time.monotonic()
        self._pending: Chunk | None = None
        self._stop = Event()
        self._thread = Thread(target=self._run, daemon=True)

    @property
    def contact(self) -> float:
        return struct.unpack("d", self._contact[:8])[0]

    @contact.setter
    def contact(self, when: float) -> None:
        self._contact[:8] = struct.pack("d", when)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. It may be in a slow request, so this waits no longer than a request may take."""
        self._stop.set()
        self._thread.join(20)

    def upload_rest(self, seconds: float) -> bool:
        """Uploads the rest, for at most `seconds`; returns False if something could not be uploaded."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if not self._upload():
                    return True
            except OSError:
                time.sleep(RETRY_SECONDS)
        return False

    def report_running(self) -> None:
        """Writes a heartbeat; raises OSError if that fails."""
        self._sequence += 1
        status: RunningStatus = {
            **self._facts,
            "state": "running",
            "sequence": self._sequence,
            "chunks": self.chunks,
        }
        self._folder.write(f"status/node{self._node}.json", status)

    def report_ended(self, end: NodeEnd) -> None:
        """Writes this node's last status; raises OSError if that fails."""
        self._sequence += 1
        self._folder.write(
            f"status/node{self._node}.json",
            {**self._facts, **end, "sequence": self._sequence, "chunks": self.chunks},
        )

    def _run(self) -> None:
        last_beat = last_flush = 0.0
        while not self._stop.is_set():
            now = time.monotonic()
            try:
                if now - last_beat >= self._heartbeat:
                    began = leases.now()
                    self.report_running()
                    self.contact = began
                    last_beat = now
                    self.cancelled = self.cancelled or self._is_cancelled()
                if now - last_flush >= self._flush_seconds(now) or self._output.is_full:
                    self._upload()
                    last_flush = now
            except OSError as e:
                print(f"{time.strftime('%F %T')} the store: {e}", flush=True)
                self._stop.wait(RETRY_SECONDS)
            self._stop.wait(0.1)

    def _is_cancelled(self) -> bool:
        """Whether `cancel.json` exists. Its content does not matter: any object there asks to end the job."""
        try:
            return self._folder.read("cancel.json") is not None
        except BrokenObject as e:
            print(f"{time.strftime('%F %T')} cancelled by an object that cannot be read: {e}", flush=True)
            return True

    def _flush_seconds(self, now: float) -> float:
        """Short at first, when someone is watching the start, then two seconds, so that long runs cost little."""
        return min(2.0, 0.2 + (now - self._started) / 60)

    def _upload(self) -> bool:
        """Writes the next chunk; returns False if there was none. A failed chunk is tried again by the next call."""
        while True:
            self._pending = self._pending or self._output.take()
            if self._pending is None:
                return False
            # The chunk may already exist from a write whose response was lost; it is then identical.
            self._folder.create(f"output/node{self._node}/{self.chunks + 1:06d}.json", self._pending)
            self.chunks += 1
            full = sum(map(len, self._pending["lines"])) >= CHUNK_BYTES // 2
            self._pending = None
            if not full:
                return True
