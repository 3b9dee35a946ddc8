"""What a program in the sandbox may use, and how its run ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SandboxName = Literal["bubblewrap", "landlock", "none"]
Wanted = Literal["auto", "bubblewrap", "landlock", "none"]
"""`auto` takes bubblewrap, or Landlock where bubblewrap does not work; `none`, no confinement, is never taken by it."""
Stopped = Literal["time", "output", "memory", "folder"]
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. The processes of a run have these limits each, where it does not say otherwise."""

    cpu_seconds: int = 5
    wall_seconds: float = 20.0
    """Of the whole run. Well above `cpu_seconds`, so that a busy machine fails no program that is fast enough."""
    memory_bytes: int = 512 * MIB
    """Address space of each process, and resident memory of all together, looked at twenty times a second."""
    processes: int = 8
    """Processes and threads of the whole run."""
    open_files: int = 64
    file_bytes: int = 16 * MIB
    """Size of one file."""
    folder_bytes: int = 64 * MIB
    """Size of the whole folder that the run may write to."""
    folder_files: int = 1000
    """Files and folders in it; counted under Landlock only."""
    output_bytes: int = 64 * 1024
    """Bytes of standard output, and as many of standard error, after which the run is stopped."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    status: int
    """The exit code; 128 and the number of the signal for a process that a signal ended."""
    stdout: str
    stderr: str
    stopped: Stopped | None
    """The limit of the whole run for which it was killed, if any."""
    seconds: float
    """Wall time."""
    peak_bytes: int
    """The most resident memory that its processes were seen to have together; 0 for a run that ended before a look."""
    sandbox: SandboxName

    @property
    def timed_out(self) -> bool:
        return self.stopped == "time"
