"""A job's processes: found by a mark in their environment, and ended all together.

torchrun puts each of its workers in a session of its own, and kills them itself only while it lives. So the process
group is not enough: every descendant inherits `AQUARAT_JOB`, and whoever still carries it at the end is killed.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

MARK = "AQUARAT_JOB"


def identity(pid: int) -> dict[str, Any]:
    """What tells a process from a later one with the same number: boot, pid and the tick at which it started."""
    return {"boot": boot_id(), "pid": pid, "started": _stat(pid)[1]}


def is_alive(who: dict[str, Any]) -> bool:
    """Whether that very process of this machine still runs; a zombie does not."""
    state, started = _stat(who["pid"])
    return who["boot"] == boot_id() and started == who["started"] and state not in ("", "Z", "X")


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def members(mark: str) -> list[int]:
    """Process ids of the living processes that carry that mark: a job's part on this host."""
    return carriers(MARK, mark)


def carriers(variable: str, value: str, *, prefix: bool = False) -> list[int]:
    """Process ids of the other living processes that were started with `variable` as `value` in their environment.

    With `prefix`, also of those where it only begins with `value`.
    """
    mark = f"{variable}={value}".encode()
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [
        pid
        for pid in pids
        if pid != os.getpid() and any(e == mark or (prefix and e.startswith(mark)) for e in _environment(pid))
    ]


def kill_members(mark: str, seconds: float = 10.0) -> list[int]:
    """SIGKILL to all that carries the mark; returns what survived, which is nothing unless the kernel holds it."""
    deadline = time.monotonic() + seconds
    left = members(mark)
    while left and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        left = members(mark)
    return left


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _stat(pid: int) -> tuple[str, int]:
    """State and start tick; the command name, in parentheses, may itself hold spaces and parentheses."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])
