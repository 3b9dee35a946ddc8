"""A job's output, cut into chunks for the store: rank 0's lines, Pipes messages, and every rank's last lines.

A bounded buffer sits between the job and the store. While the store is reachable, a full buffer makes the job wait.
While it is not, the oldest lines are dropped, and the log says how many. Memory therefore stays bounded however much a
job prints and however long the network is down.
"""

from __future__ import annotations

import json
import re
from collections import deque
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .protocol import Chunk


TAIL_LINES = 40
BUFFER_BYTES = 4 << 20
CHUNK_BYTES = 512 << 10
MAX_LINE_BYTES = 64 << 10

_RANK = re.compile(r"\[[a-z]+(\d+)\]:")
_EXIT_CODE = re.compile(r"exitcode\s*:\s*(-?\d+)")


class Output:
    """Filled by the supervisor's loop, emptied by its uploader. `ranks`: torchrun prefixes each line with its rank."""

    def __init__(self, ranks: bool, messages: Path) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.launcher_tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.signal: int | None = None
        """The signal that killed the first worker to die, as torchrun reports it."""
        self.cause_seen = False
        """Whether torchrun has named a worker that failed."""
        self._ranks = ranks
        self._messages = messages
        self._messages_read = 0
        self._rest = b""
        self._lock = Lock()
        self._waiting: deque[tuple[Literal["lines", "messages"], Any, int]] = deque()
        self._bytes = 0
        self._dropped = 0

    @property
    def is_full(self) -> bool:
        return self._bytes >= BUFFER_BYTES

    def feed(self, data: bytes) -> None:
        """Adds output of the job. An unfinished line waits for its end unless it has become too long."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._line(line.decode(errors="replace"))

    def feed_messages(self) -> None:
        """Adds the Pipes messages that the job has appended to its file, one per line."""
        try:
            with self._messages.open("rb") as f:
                f.seek(self._messages_read)
                data = f.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._messages_read += len(whole)
        for line in whole.splitlines():
            try:
                self._put("messages", json.loads(line), len(line))
            except (ValueError, RecursionError):
                self._put("lines", f"... a line of {self._messages} was dropped: it is not JSON", 80)

    def finish(self) -> None:
        """Called when the job has ended, because its last line may lack a newline."""
        if self._rest:
            self.feed(b"\n")
        self.feed_messages()

    def make_room(self) -> None:
        """Drops the oldest lines of a full buffer but keeps messages."""
        with self._lock:
            while self._bytes >= BUFFER_BYTES // 2:
                oldest = next((entry for entry in self._waiting if entry[0] == "lines"), None)
                if oldest is None:
                    return
                self._waiting.remove(oldest)
                self._bytes -= oldest[2]
                self._dropped += 1

    def take(self) -> Chunk | None:
        """The next chunk, or None if there is nothing to upload."""
        chunk: Chunk = {"lines": [], "messages": []}
        size = 0
        with self._lock:
            if not self._waiting:
                return None
            if self._dropped:
                chunk["lines"].append(f"... {self._dropped} lines were dropped while the store could not be reached")
                self._dropped = 0
            while self._waiting and size < CHUNK_BYTES:
                kind, entry, length = self._waiting.popleft()
                chunk[kind].append(entry)
                self._bytes -= length
                size += length
        return chunk

    def _line(self, line: str) -> None:
        mark = _RANK.match(line) if self._ranks else None
        if self._ranks and not mark:
            self.launcher_tail.append(line)
            found = _EXIT_CODE.search(line)
            # Only the first one is the cause: torchrun then ends the other ranks by signals, and may list those too.
            if found and not self.cause_seen:
                self.cause_seen = True
                self.signal = -int(found[1]) if int(found[1]) < 0 else None
            return
        rank, text = (mark[1], line[mark.end() :]) if mark else ("0", line)
        self.tail.append(text if rank == "0" else f"rank {rank}: {text}")
        if rank == "0":
            self._put("lines", text, len(line) + 1)

    def _put(self, kind: Literal["lines", "messages"], entry: Any, length: int) -> None:
        with self._lock:
            self._waiting.append((kind, entry, length))
            self._bytes += length
