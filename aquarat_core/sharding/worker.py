"""A process that makes shards: `python -m aquarat_core.sharding.worker THREADS`.

It reads one task a line from standard input and writes one line of JSON for each to standard output. It ends when
standard input does, which is when the process that started it ends, however that happens, even in the middle of a
shard.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, BinaryIO

from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.sharding.making import attempt

_PR_SET_PDEATHSIG = 1


def main(threads: int) -> None:
    """Make shards until standard input ends."""
    take_no_signals()
    # What a shard function, or a library that it uses, prints must not be taken for a reply.
    with os.fdopen(os.dup(1), "wb", buffering=0) as replies:
        os.dup2(2, 1)
        tasks = queue.SimpleQueue[dict[str, Any] | None]()
        busy = threading.Event()
        threading.Thread(target=_read, args=(sys.stdin.buffer, tasks, busy), daemon=True).start()
        with scratch_folder("shards") as folder:
            replies.write(b"ready\n")
            while (task := tasks.get()) is not None:
                ended = attempt(task["attempt"], task, folder / "shard", threads)
                busy.clear()
                with suppress(BrokenPipeError):
                    replies.write(ended.to_line())


def _read(source: BinaryIO, tasks: queue.SimpleQueue[dict[str, Any] | None], busy: threading.Event) -> None:
    for line in source:
        busy.set()
        tasks.put(json.loads(line))
    if busy.is_set():
        os._exit(1)
    tasks.put(None)


def take_no_signals() -> None:
    """Undo the parent's handling of signals, ignore Ctrl-C, which the parent acts on, and end when the parent ends."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        # For a function that never lets the thread run that sees the end of standard input.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
