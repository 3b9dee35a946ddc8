"""The worker of a run: a process of this machine, recorded on the run as a tag, and at most one at a time.

The tag lets any process check whether the worker is alive. The lock file prevents a second worker of the same run,
whoever starts it; the kernel releases it when its holder dies in any way.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

from aquarat_core.agent import processes
from aquarat_core.agent.protocol import ProcessId
from aquarat_pipeline.locks import HeldError, held, is_held
from aquarat_pipeline.tags import WORKER_TAG

LAUNCHED = "AQUARAT_LAUNCHED"
"""Environment variable with which the run launcher tells a worker its run's id."""
RUN_PROFILE = "AQUARAT_RUN_PROFILE"
"""Environment variable with which it tells a worker the run's experiment and profile: `<experiment>=<file>`."""

PARK_AFTER = "AQUARAT_PARK_AFTER"
"""Environment variable with which it tells a worker after how many seconds of waiting to end."""

Kind = Literal["launcher", "shell"]


class Worker(ProcessId):
    """The process that executes a run, as described by the run's tag."""

    kind: Kind
    host: str


class SecondWorkerError(RuntimeError):
    """Another living process already executes this run; `holder` is its tag."""

    def __init__(self, run_id: str, holder: str) -> None:
        super().__init__(f"run {run_id} already has a worker: this one (pid {os.getpid()}) exits")
        self.holder = holder


def describe(pid: int, kind: Kind) -> str:
    """The tag's value for a process of this machine. `launcher`: started by the run launcher, which will resume it."""
    worker: Worker = {"kind": kind, "host": socket.gethostname(), **processes.identity(pid)}
    return json.dumps(worker)


def worker_of(tags: Mapping[str, str]) -> Worker | None:
    """The worker that a run's tags name."""
    return json.loads(tags[WORKER_TAG]) if WORKER_TAG in tags else None


def is_here(worker: Worker) -> bool:
    """Whether this machine can tell if the worker is alive."""
    return worker["host"] == socket.gethostname()


@contextmanager
def only_worker(home: Path, run_id: str, tag: str) -> Generator[None]:
    """Holds the run's lock, as the worker that `tag` describes. Raises `SecondWorkerError` if another process does."""
    path = _lock(home, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(path, tag))
        except HeldError as e:
            raise SecondWorkerError(run_id, e.holder) from None
        yield


def is_executing(home: Path, run_id: str) -> bool:
    """Whether a worker has started to execute the run's steps: it then holds the run's lock."""
    return is_held(_lock(home, run_id))


def show_alive(home: Path, run_id: str) -> None:
    """Records that the run's worker is alive: `last_alive` then returns the current time."""
    with suppress(FileNotFoundError):
        os.utime(_lock(home, run_id))


def last_alive(home: Path, run_id: str) -> float:
    """When a worker of the run last recorded that it is alive, in seconds since 1970; 0 if none ever did."""
    try:
        return _lock(home, run_id).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def is_parked(home: Path, run_id: str) -> bool:
    """Whether the run's worker has ended on purpose while its step waits or its job runs: it is not dead."""
    return (parked(home) / f"{run_id}.json").exists()


def parked_runs(home: Path) -> set[str]:
    """The ids of all parked runs."""
    with suppress(FileNotFoundError):
        return {name.removesuffix(".json") for name in os.listdir(parked(home))}
    return set()


def unpark(home: Path, run_id: str) -> None:
    """The run has a worker again, or has ended."""
    with suppress(FileNotFoundError):
        (parked(home) / f"{run_id}.json").unlink()


def parked(home: Path) -> Path:
    """The folder with a record for each parked run."""
    return home / "aquarat" / "parked"


def _lock(home: Path, run_id: str) -> Path:
    return home / "aquarat" / "workers" / f"{run_id}.lock"
