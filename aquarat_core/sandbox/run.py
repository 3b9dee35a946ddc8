"""Runs a program in a sandbox that is tested before it is trusted."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from aquarat_core.errors import UsageError
from aquarat_core.plain_text import one_line
from aquarat_core.sandbox.confinement import NoSandbox, run_confined
from aquarat_core.sandbox.limits import Limits, Outcome, SandboxName, Wanted

T = TypeVar("T")
R = TypeVar("R")
_CONFINED: tuple[SandboxName, ...] = ("bubblewrap", "landlock")
_RUN = "import sys\nexec(compile(sys.stdin.buffer.read(), 'program', 'exec'), {'__name__': '__main__'})"
_PROBE = """\
import socket, sys
for attempt in (lambda: open(sys.argv[1]).read(), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)):
    try:
        attempt()
    except OSError:
        continue
    sys.exit("it lets a program read files or open sockets")
open("own", "w").write("x")
print("confined")
"""
DEFAULT_LIMITS = Limits()


def run_python(program: str, limits: Limits = DEFAULT_LIMITS, sandbox: Wanted = "auto") -> Outcome:
    """Run `program` with only Python's standard library, in an empty folder, without network, files or environment.

    Returns when it has ended or was killed, together with all processes it started. Its standard input is empty. Raises
    `UsageError` if the machine does not support this sandbox.
    """
    return run_confined(choose(sandbox), ["-I", "-B", "-c", _RUN], program.encode(errors="replace"), limits)


def choose(wanted: Wanted) -> SandboxName:
    """The sandbox to use, tested once per process. Raises `UsageError`, with what to install, if none works."""
    if wanted == "none":
        return "none"
    names = _CONFINED if wanted == "auto" else (wanted,)
    faults: list[str] = []
    for name in names:
        fault = fault_of(name)
        if fault is None:
            return name
        faults.append(f"{name}: {fault}")
    raise UsageError(
        f"no sandbox for generated code works here ({'; '.join(faults)}). Install bubblewrap (apt-get install "
        "bubblewrap) and allow user namespaces, or use a kernel with Landlock. To run such code with all of your own "
        "rights, choose sandbox none."
    )


@functools.cache
def fault_of(name: SandboxName) -> str | None:
    """Why that sandbox does not confine a program on this machine; None if it does."""
    with tempfile.NamedTemporaryFile("w", prefix="aquarat-") as secret:
        secret.write("not to be read")
        secret.flush()
        Path(secret.name).chmod(0o644)
        try:
            outcome = run_confined(name, ["-I", "-B", "-c", _PROBE, secret.name], b"", DEFAULT_LIMITS)
        except (NoSandbox, OSError) as e:
            return one_line(str(e))
    if outcome.stdout == "confined\n" and outcome.status == 0:
        return None
    return one_line(outcome.stderr.strip()[-300:] or f"a program that should succeed ended with {outcome.status}")


def in_parallel(function: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> list[R]:
    """`function` of each item, in order; runs several at a time, by default one per processor but at most 8."""
    workers = workers or min(8, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))
