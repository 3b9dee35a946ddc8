"""Runs a process group with limits on time, output, memory and the size of its folder, and kills it at the end."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from aquarat_core.sandbox.limits import Limits, Stopped

_TICK = 0.05
"""Seconds between two checks of the folder, of memory, and of whether the process has ended."""
_KILLED_WITHIN = 10.0


@dataclass(slots=True)
class Ended:
    """The result of a process group."""

    status: int = 0
    """Negative if a signal ended it: minus the signal's number."""
    stopped: Stopped | None = None
    report: bytes = b""
    """Data that it wrote to the extra pipe."""
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    seconds: float = 0.0
    peak_bytes: int = 0


def run_group(command: Callable[[int], Sequence[str]], stdin: bytes, limits: Limits, folder: Path) -> Ended:
    """Runs a command without environment variables, as the leader of its own session, and kills its group at the end.

    `command` gets the file descriptor to which the process may write a report. While it runs, the files in `folder` are
    counted but not opened.
    """
    began = time.monotonic()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as report:
        with os.fdopen(writing, "wb"):
            process = subprocess.Popen(
                command(writing), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={},
                pass_fds=(writing,), start_new_session=True,
            )  # fmt: skip
        ended = Ended()
        try:
            ended.stopped = _attend(process, stdin, limits, folder, began + limits.wall_seconds, ended)
        finally:
            _kill_all(process, ended)
        os.set_blocking(reading, False)
        ended.report = report.read(4096) or b""
    for pipe, kept in ((process.stdout, ended.stdout), (process.stderr, ended.stderr)):
        assert pipe is not None
        with pipe:
            kept += _rest(pipe, limits.output_bytes - len(kept))
    ended.seconds = time.monotonic() - began
    return ended


def _attend(
    process: subprocess.Popen[bytes], stdin: bytes, limits: Limits, folder: Path, deadline: float, ended: Ended
) -> Stopped | None:
    """Feeds and reads the process until it has ended or reached a limit, which is returned."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    waiting = memoryview(stdin)
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdin, process.stdout, process.stderr):
            os.set_blocking(pipe.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ, ended.stdout)
        selector.register(process.stderr, selectors.EVENT_READ, ended.stderr)
        looked = time.monotonic()
        while not _has_ended(process):
            now = time.monotonic()
            if now >= deadline:
                return "time"
            if now >= looked + _TICK:
                looked = now
                if _is_overfull(folder, limits):
                    return "folder"
                ended.peak_bytes = max(ended.peak_bytes, resident := _resident(process.pid))
                if resident > limits.memory_bytes:
                    return "memory"
            for key, _ in selector.select(_TICK):
                if key.data is None:
                    waiting = _feed(selector, process.stdin, waiting)
                elif _read(selector, key.fileobj, key.data, limits.output_bytes):  # pyright: ignore[reportArgumentType]
                    return "output"
            if not selector.get_map():
                time.sleep(_TICK / 10)
    return None


def _feed(selector: selectors.BaseSelector, pipe: IO[bytes], waiting: memoryview) -> memoryview:
    with suppress(BlockingIOError):
        try:
            waiting = waiting[os.write(pipe.fileno(), waiting) :] if waiting else waiting
        except BrokenPipeError:
            waiting = waiting[:0]
    if not waiting:
        selector.unregister(pipe)
        pipe.close()
    return waiting


def _read(selector: selectors.BaseSelector, pipe: IO[bytes], kept: bytearray, limit: int) -> bool:
    """Reads available output; returns whether it exceeds the limit."""
    part = os.read(pipe.fileno(), 1 << 16)
    if not part:
        selector.unregister(pipe)
    over = len(kept) + len(part) > limit
    kept += part[: limit - len(kept)]
    return over


def _rest(pipe: IO[bytes], limit: int) -> bytes:
    """Output that the ended process left in the pipe, up to `limit` bytes."""
    try:
        return os.read(pipe.fileno(), limit) if limit > 0 else b""
    except BlockingIOError:
        return b""


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Checks without reaping, so that the group's number stays in use until the group is killed."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_all(process: subprocess.Popen[bytes], ended: Ended) -> None:
    """Sends SIGKILL to the group and waits until none of it is left. The system call filter lets no process leave
    it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
    ended.status = process.wait()
    deadline = time.monotonic() + _KILLED_WITHIN
    while _is_alive(process.pid):
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes of the group {process.pid} are still alive after SIGKILL")
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(_TICK / 10)


def _is_alive(group: int) -> bool:
    """Whether a process of the group exists. One that has ended still counts until init reaps it."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                # After the name, which is in parentheses and may contain parentheses itself: state, parent, group.
                state, _, its_group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(its_group) == group and state not in "ZX":
                    return True
    return False


def _resident(pid: int) -> int:
    """Bytes of memory of a process and its descendants. The kernel's own peak would include our memory at the fork."""
    pages = 0
    waiting = [str(pid)]
    while waiting:
        process = Path("/proc", waiting.pop())
        with suppress(OSError, IndexError):
            pages += int((process / "statm").read_text().split()[1])
            for thread in os.listdir(process / "task"):
                waiting += (process / "task" / thread / "children").read_text().split()
    return pages * os.sysconf("SC_PAGE_SIZE")


def _is_overfull(folder: Path, limits: Limits) -> bool:
    """Whether the folder has too many files, or they are too big together; stops counting as soon as that is clear."""
    count = size = 0
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    with suppress(OSError):
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    if count > limits.folder_files or size > limits.folder_bytes:
                        return True
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            continue
        except OSError:  # made unreadable, or nested too deeply to have a path; uncountable means too much
            return True
    return False
