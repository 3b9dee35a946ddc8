"""The executor for this machine: worker processes that are started when there is work for them.

Workers are ordinary child processes that speak JSON over pipes. Nothing is forked from this process and no helper of
`multiprocessing` stays behind; the signal handlers and masks of this process are neither changed nor passed on.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import cast

from aquarat_core.sharding.executor import Ended, read_ended
from aquarat_core.sharding.records import ShardStore
from aquarat_core.sharding.spec import ShardSpec

PIECE = 1 << 16
READY = b"ready"
"""A worker's first line."""
_SECONDS_TO_END = 5.0


class _Worker:
    """A worker process and what it is doing."""

    def __init__(self, threads: int) -> None:
        command = [sys.executable, "-m", "aquarat_core.sharding.worker", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.attempt: int | None = None
        self.began = math.inf
        """When it began with its task, by the monotonic clock; later than now while it is starting."""
        self._ready = False
        self._received = b""

    def fileno(self) -> int:
        """The file descriptor of the worker's replies, for a selector."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, attempt: int, task: bytes) -> None:
        """Gives it a task. A worker that has just ended is noticed by the end of its replies."""
        assert self.process.stdin is not None
        self.attempt = attempt
        if self._ready:
            self.began = time.monotonic()
        with suppress(BrokenPipeError):
            self.process.stdin.write(task)

    def receive(self) -> tuple[list[bytes], bool]:
        """The complete lines that have arrived, and whether the process has ended."""
        data = os.read(self.fileno(), PIECE)
        *lines, self._received = (self._received + data).split(b"\n")
        if lines and not self._ready:
            assert lines.pop(0) == READY
            self._ready, self.began = True, time.monotonic()
        return lines, not data

    def end(self) -> int:
        """Ends the process, and returns its exit code: minus the signal that ended it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.attempt is not None and self.process.poll() is None:
            self.process.kill()
        try:
            code = self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        return code


class Processes:
    """Makes shards in up to `slots` processes, with `threads` threads each."""

    def __init__(self, shards: ShardStore, slots: int, threads: int = 1) -> None:
        self._shards, self._slots, self._threads = shards, slots, threads
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the workers that were started and have not ended."""
        return [worker.process.pid for worker in self._workers]

    def start(self, attempt: int, spec: ShardSpec) -> None:
        worker = next((w for w in self._workers if w.attempt is None), None)
        if worker is None:
            worker = _Worker(self._threads)
            self._workers.append(worker)
            self._selector.register(worker, selectors.EVENT_READ)
        task = spec.task(self._shards.stage, self._shards.store.uri) | {"attempt": attempt}
        worker.send(attempt, json.dumps(task).encode() + b"\n")

    def wait(self, seconds: float) -> list[Ended]:
        found: list[Ended] = []
        for ready, _ in self._selector.select(seconds):
            worker = cast(_Worker, ready.fileobj)
            lines, gone = worker.receive()
            for line in lines:
                found.append(read_ended(line))
                worker.attempt = None
            if gone:
                attempt = worker.attempt
                code = self._remove(worker)
                if attempt is not None:
                    found.append(Ended(attempt, None, f"the process that made it {_how(code)}", "lost"))
        return found

    def seconds(self, attempt: int) -> float:
        began = next((w.began for w in self._workers if w.attempt == attempt), math.inf)
        return max(0.0, time.monotonic() - began)

    def stop(self, attempt: int) -> None:
        for worker in self._workers:
            if worker.attempt == attempt:
                self._remove(worker)
                return

    def close(self) -> None:
        for worker in self._workers:
            # So that all of them end at the same time.
            if worker.attempt is not None:
                worker.process.kill()
        for worker in list(self._workers):
            self._remove(worker)
        self._selector.close()

    def _remove(self, worker: _Worker) -> int:
        self._selector.unregister(worker)
        self._workers.remove(worker)
        return worker.end()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{memory}"
