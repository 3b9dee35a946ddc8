"""A job's processes: started as one group, found again by a mark in their environment, and ended all together.

torchrun puts each of its workers in a session of its own, and kills them itself only while it lives. So the process
group is not enough: every descendant inherits `AQUARAT_JOB`, and whoever still carries it at the end is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "AQUARAT_JOB"


@contextmanager
def running(command: Sequence[str], job: str, env: Mapping[str, str], grace: float) -> Iterator[subprocess.Popen[str]]:
    """Runs `command` with its output (both streams) on a pipe; leaving the block, however, ends all of the job."""
    process = subprocess.Popen(
        command,
        env={**env, MARK: job},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        bufsize=1,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process, job, grace)


def end(process: subprocess.Popen[str], job: str, grace: float) -> None:
    """SIGTERM to the leader's group, `grace` seconds to clean up, then SIGKILL to all that is left of the job."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
    deadline = time.monotonic() + grace
    while (left := members(job)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    process.wait()


def members(job: str) -> list[int]:
    """Process ids of the living processes that carry the mark of `job`."""
    mark = f"{MARK}={job}".encode()
    return [pid for pid in _pids() if pid != os.getpid() and mark in _environment(pid)]


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return []
