"""Limits of a program in the sandbox, and how its run ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SandboxName = Literal["bubblewrap", "landlock", "none"]
Wanted = Literal["auto", "bubblewrap", "landlock", "none"]
"""`auto` uses bubblewrap, or Landlock if bubblewrap does not work, but never `none`, which confines nothing."""
Stopped = Literal["time", "output", "memory", "folder"]
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one run. Unless stated otherwise, they apply to each process."""

    cpu_seconds: int = 5
    wall_seconds: float = 20.0
    """Time of the whole run. Well above `cpu_seconds`, so that a busy machine does not fail a fast program."""
    memory_bytes: int = 512 * MIB
    """Address space of each process, and resident memory of all together, which is checked twenty times a second."""
    processes: int = 8
    """Number of processes and threads of the whole run."""
    open_files: int = 64
    file_bytes: int = 16 * MIB
    """Size of one file."""
    folder_bytes: int = 64 * MIB
    """Size of the whole folder that the run may write to."""
    folder_files: int = 1000
    """Number of files and folders in it; only counted under Landlock."""
    output_bytes: int = 64 * 1024
    """Bytes of standard output, and separately of standard error, after which the run is stopped."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    status: int
    """The exit code; 128 plus the signal's number for a process that a signal ended."""
    stdout: str
    stderr: str
    stopped: Stopped | None
    """The limit for which the whole run was killed, if any."""
    seconds: float
    """Wall time."""
    peak_bytes: int
    """Maximum resident memory of all its processes together, as sampled; 0 if the run ended before the first sample."""
    sandbox: SandboxName

    @property
    def timed_out(self) -> bool:
        return self.stopped == "time"
