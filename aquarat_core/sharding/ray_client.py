"""The process that talks to Ray: `python -m aquarat_core.sharding.ray_client ADDRESS STAGE`.

It connects, writes a line of JSON with the number of the cluster's CPUs or with what is wrong, then reads a request a
line and writes a line for each shard that ended, and one for each change in the number of CPUs. It is one Ray job; Ray
ends the job's tasks when it ends.

Ray's driver starts threads, takes signals, and waits long for an address that does not answer. In a process of its own
it leaves the stage's process as it is, and can be ended. Ray pickles the name of `make_shard`, and JSON.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import tempfile
import threading
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from typing import Any, BinaryIO

from aquarat_core.sharding.executor import Ended
from aquarat_core.sharding.ray_task import make_shard
from aquarat_core.sharding.worker import take_no_signals

OBJECTS = 128 << 20
"""Bytes for the objects of a local cluster, which are small texts."""
LOOK_SECONDS = 5.0
"""Between two looks at how many CPUs the cluster has: hosts come and go."""
_NOT_THERE = "failed to import on the worker"


def main(address: str, stage: str) -> None:
    """Serve requests until standard input ends."""
    take_no_signals()
    # Ray prints what tasks print.
    with (
        os.fdopen(os.dup(1), "wb", buffering=0) as replies,
        tempfile.TemporaryDirectory(prefix="aquarat-ray-", ignore_cleanup_errors=True) as folder,
    ):
        os.dup2(2, 1)
        # Ray is imported where it is needed: it is optional, and has no types.
        ray: Any = import_module("ray")
        client = _Client(ray, replies)
        threading.Thread(target=client.read, args=(sys.stdin.buffer,), daemon=True).start()
        try:
            _connect(ray, address, stage, folder)
            slots = client.slots()
        except Exception as e:
            # The process that serves this client on the head is forked there from one with threads, and may hang.
            again = address.startswith("ray://") and isinstance(e, ConnectionError)
            replies.write(json.dumps({"error": str(e) or type(e).__name__, "again": again}).encode() + b"\n")
            return
        client.serve(slots)
        with suppress(Exception):
            ray.shutdown()


def _connect(ray: Any, address: str, stage: str, folder: str) -> None:
    # Ray would otherwise report to its makers that a cluster was started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {}
    if address == "local":
        # Ray's workers would otherwise give way to everything else on the host, and the stage waits for them.
        os.environ.setdefault("RAY_worker_niceness", "0")
        options = {
            "num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False, "object_store_memory": OBJECTS,
            "_temp_dir": folder,
        }  # fmt: skip
    if not address.startswith("ray://"):  # A client of a cluster cannot name its job.
        options["job_config"] = import_module("ray.job_config").JobConfig(metadata={"job_name": f"aquarat {stage}"})
    ray.init(address, logging_level=logging.ERROR, **options)


class _Client:
    """The shards that Ray is making."""

    def __init__(self, ray: Any, replies: BinaryIO) -> None:
        self._ray, self._replies = ray, replies
        self._events = queue.SimpleQueue[dict[str, Any] | tuple[int, Future[str]] | None]()
        self._running: dict[int, Any] = {}
        self._serving = False
        self._ended = threading.Event()

    def read(self, source: BinaryIO) -> None:
        """Takes requests until standard input ends. This process then ends, even if it is still connecting to Ray."""
        for line in source:
            self._events.put(json.loads(line))
        if not self._serving:
            os._exit(1)
        self._events.put(None)

    def slots(self) -> int:
        """The number of the cluster's CPUs."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def watch(self, slots: int) -> None:
        """Tells when the number of CPUs changes, as long as Ray answers."""
        with suppress(Exception):
            while not self._ended.wait(LOOK_SECONDS):
                if (now := self.slots()) != slots:
                    slots = now
                    self._events.put({"slots": slots})

    def serve(self, slots: int) -> None:
        self._serving = True
        self._write(json.dumps({"slots": slots}).encode() + b"\n")
        threading.Thread(target=self.watch, args=(slots,), daemon=True).start()
        # The stage's driver tries again, and counts.
        start = self._ray.remote(num_cpus=1, max_retries=0, retry_exceptions=False)(make_shard).remote
        while (event := self._events.get()) is not None:
            if isinstance(event, tuple):
                self._end(*event)
            elif "slots" in event:
                self._write(json.dumps(event).encode() + b"\n")
            elif "stop" in event:
                if (task := self._running.pop(event["stop"], None)) is not None:
                    self._ray.cancel(task, force=True)
            else:
                self._start(start, event)
        self._ended.set()  # If Ray were asked again after its shutdown, it would start a cluster.

    def _start(self, start: Any, event: dict[str, Any]) -> None:
        number = event["attempt"]
        task = self._running[number] = start(json.dumps(event))
        future: Future[str] = task.future()
        future.add_done_callback(lambda done: self._events.put((number, done)))

    def _end(self, number: int, future: Future[str]) -> None:
        if self._running.pop(number, None) is not None:
            error = future.exception()
            self._write(future.result().encode() if error is None else _lost(number, error).to_line())

    def _write(self, line: bytes) -> None:
        with suppress(BrokenPipeError):
            self._replies.write(line)


def _lost(number: int, error: BaseException) -> Ended:
    """A task of which Ray has no result."""
    text = str(error).strip()
    if _NOT_THERE in text:
        reason = next((line for line in reversed(text.splitlines()) if "Error" in line), text)
        return Ended(
            number, None,
            "a host of the Ray cluster cannot import aquarat, or has an older version of it: bring the stage's "
            f"checkout to every host and set it up there, then start the stage again ({reason.strip()})",
            "user", "StageError",
        )  # fmt: skip
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return Ended(number, None, f"the Ray worker that made it was lost ({said})", "lost")


if __name__ == "__main__":
    main(*sys.argv[1:])
    # The thread that reads holds the lock of standard input, for which the interpreter would wait at its end.
    os._exit(0)
