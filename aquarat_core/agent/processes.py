"""A job's processes, which are found by a tag in their environment and ended all together.

torchrun puts each of its workers in a session of its own, and kills them only while it is alive itself. The process
group is therefore not enough: every descendant inherits `AQUARAT_JOB`, and all that still have it at the end are
killed. A child that was started with an empty environment does not have it. To find such children too, the supervisor
adopts every orphaned descendant.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .protocol import ProcessId


ENV_TAG = "AQUARAT_JOB"
"""Environment variable of every process of a job; its value is the `mark` in the job's request."""
_PR_SET_CHILD_SUBREAPER = 36


def identity(pid: int) -> ProcessId:
    """Identifies a process even if its number is reused later: boot, pid and the tick at which it started."""
    return {"boot": boot_id(), "pid": pid, "started": _stat(pid)[1]}


def is_alive(who: object) -> bool:
    """Whether the process with this `identity` is still running; False for a zombie or a malformed identity."""
    if not isinstance(who, dict):
        return False
    found = cast("dict[str, Any]", who)
    if not isinstance(found.get("pid"), int) or "boot" not in found or "started" not in found:
        return False
    if found["boot"] != boot_id():
        return False
    state, started = _stat(found["pid"])
    return started == found["started"] and state not in ("", "Z", "X")


@lru_cache(maxsize=1)
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def job_processes(mark: str) -> list[int]:
    """Ids of the living processes with that tag in their environment: a job's processes on this host."""
    return processes_with_env(ENV_TAG, mark)


def processes_with_env(variable: str, value: str, *, prefix: bool = False) -> list[int]:
    """Ids of the other living processes that were started with `variable` set to `value` in their environment.

    With `prefix`, a variable that starts with `value` also counts.
    """
    entry = f"{variable}={value}".encode()
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [
        pid
        for pid in pids
        if pid != os.getpid() and any(e == entry or (prefix and e.startswith(entry)) for e in _environment(pid))
    ]


def adopt_orphans() -> None:
    """From now on, descendants whose parent dies become children of this process instead of init."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def daemonize(work: Callable[[], int], log: Path, kept: int | None = None) -> None:
    """Runs `work` in a process that outlives this one, its session and its terminal, and prints into `log`.

    Of the open files it inherits only the descriptor `kept`.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    code = 1
    try:
        nowhere = os.open(os.devnull, os.O_RDONLY)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in ((0, nowhere), (1, out), (2, out)):
            os.dup2(source, target)
        for handle in range(3, 256):
            if handle != kept:
                with suppress(OSError):
                    os.close(handle)
        code = work()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def reap(spared: Iterable[int]) -> None:
    """Reaps adopted children of this process that have ended, except `spared`, which other code waits for."""
    for pid in descendants([os.getpid()], depth=1, zombies=True):
        if pid not in spared:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def descendants(roots: Iterable[int], depth: int = 1000, *, zombies: bool = False) -> list[int]:
    """Ids of living processes below `roots`, at most `depth` generations down."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _fields(int(entry.name))
            if fields and (zombies or fields[0] not in ("Z", "X")):
                below.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    layer = list(roots)
    while layer and depth:
        layer = [child for pid in layer for child in below.get(pid, [])]
        found += layer
        depth -= 1
    return found


def kill_job_processes(mark: str, seconds: float = 10.0, others: Callable[[], list[int]] = list) -> list[int]:
    """Sends SIGKILL to all processes of the job and of `others()`; returns those still alive after `seconds`.

    Only the kernel can keep one alive, for example in a system call that does not return.
    """
    deadline = time.monotonic() + seconds
    left = [*job_processes(mark), *others()]
    while left and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        left = [*job_processes(mark), *others()]
    return left


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _stat(pid: int) -> tuple[str, int]:
    """State and start tick."""
    fields = _fields(pid)
    return (fields[0], int(fields[19])) if fields else ("", 0)


def _fields(pid: int) -> list[str]:
    """State, parent and so on. The command name, in parentheses, may itself contain spaces and parentheses."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def write_durably(path: Path, obj: object) -> None:
    """Replaces a small JSON file, readable only by this user; a power cut leaves the old file or the whole new one."""
    temporary = path.with_suffix(".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
        json.dump(obj, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
