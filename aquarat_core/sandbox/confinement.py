"""The commands that start each sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aquarat_core.errors import StageError
from aquarat_core.sandbox import inside, landlock, seccomp
from aquarat_core.sandbox.bundle import bundle
from aquarat_core.sandbox.inside import NOBODY, READY, Plan
from aquarat_core.sandbox.limits import Limits, Outcome, SandboxName
from aquarat_core.sandbox.process import Ended, run_group

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_WORK = "/work"


class NoSandbox(StageError):
    """The sandbox did not start; the message says why. None of the program has run."""


def run_confined(sandbox: SandboxName, command: Sequence[str], stdin: bytes, limits: Limits) -> Outcome:
    """Run the interpreter with the arguments `command` in `sandbox`. Raises `NoSandbox` if it could not be set up."""
    before = _bubblewrap(limits) if sandbox == "bubblewrap" else []
    with _folder(sandbox) as folder:
        ended = run_group(
            lambda report: [*before, *_start(_plan(sandbox, command, limits, folder, report))], stdin, limits, folder
        )
    if ended.report != READY and ended.stopped is None:
        raise NoSandbox(f"the sandbox {sandbox} did not start: {_why(ended)}")
    return Outcome(
        status=ended.status if ended.status >= 0 else 128 - ended.status,
        stdout=ended.stdout.decode(errors="replace"),
        stderr=ended.stderr.decode(errors="replace"),
        stopped=ended.stopped,
        seconds=ended.seconds,
        peak_bytes=ended.peak_bytes,
        sandbox=sandbox,
    )


def _why(ended: Ended) -> str:
    said = ended.report.removeprefix(READY) or bytes(ended.stderr)
    return said.decode(errors="replace").strip()[-500:] or f"exit code {ended.status}"


def _plan(sandbox: SandboxName, command: Sequence[str], limits: Limits, folder: Path, report: int) -> Plan:
    prefix, executable = _interpreter()
    return {
        "report": report,
        "folder": _WORK if sandbox == "bubblewrap" else str(folder),
        "prefix": str(prefix),
        "executable": executable,
        "command": list(command),
        "environment": {"PATH": "/usr/bin:/bin", "HOME": ".", "LANG": "C.UTF-8"},
        # Run by an ordinary user, bubblewrap makes a user namespace of its own.
        "own_count": sandbox == "landlock" or os.geteuid() == 0,
        "confined": sandbox != "none",
        "readable": [*_readable(), "/dev/random", "/dev/urandom"] if sandbox == "landlock" else None,
        "writable": [str(folder), "/dev/null", "/dev/zero"],
        "rlimits": {
            "RLIMIT_CPU": limits.cpu_seconds,
            "RLIMIT_AS": limits.memory_bytes,
            "RLIMIT_FSIZE": limits.file_bytes,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_CORE": 0,
            # Without a namespace, the limit counts all of the user's processes.
            **({"RLIMIT_NPROC": limits.processes} if sandbox != "none" else {}),
        },
    }


def _start(plan: Plan) -> list[str]:
    interpreter = str(Path(plan["prefix"]) / plan["executable"])
    return [interpreter, "-I", "-S", "-B", "-c", bundle(seccomp, landlock, inside), json.dumps(plan)]


def _bubblewrap(limits: Limits) -> list[str]:
    program = shutil.which("bwrap")
    if program is None:
        raise NoSandbox("the program bwrap is not installed")
    # bubblewrap itself would make the parent folders with mode 0700, and the user `nobody` could not enter them.
    readable = _readable()
    above = dict.fromkeys(str(p) for path in (*readable, *_DEVICES) for p in reversed(Path(path).parents))
    mounts = [argument for path in above if path != "/" for argument in ("--perms", "0755", "--dir", path)]
    mounts += [argument for path in readable for argument in ("--ro-bind", path, path)]
    mounts += [argument for path in _DEVICES for argument in ("--dev-bind", path, path)]
    if os.geteuid() == 0:
        # The program inside becomes `nobody` by itself, in its own user namespace, whose files are in /proc.
        mounts += ["--proc", "/proc", "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [
        program, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
        "--die-with-parent", *mounts, "--perms", "0777", "--size", str(limits.folder_bytes), "--tmpfs", _WORK,
        "--remount-ro", "/", "--chdir", _WORK, "--",
    ]  # fmt: skip


def _interpreter() -> tuple[Path, str]:
    """The folder of the Python installation, and its program in it; a virtual environment only points to them."""
    prefix = Path(sys.base_prefix).resolve()
    name = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    found = (prefix / name).resolve()
    return prefix, str(found.relative_to(prefix)) if found.is_relative_to(prefix) else name


def _readable() -> list[str]:
    """Paths that an interpreter reads: itself and its library, and the system's libraries."""
    prefix, executable = _interpreter()
    own = (prefix / executable, prefix / "lib", prefix / "lib64")
    return list(dict.fromkeys(path for path in (*_LIBRARIES, *map(str, own)) if Path(path).exists()))


@contextmanager
def _folder(sandbox: SandboxName) -> Generator[Path]:
    """An empty folder that the program may write to; under bubblewrap it stays empty, because the program has a
    tmpfs."""
    folder = Path(tempfile.mkdtemp(prefix="aquarat-sandbox-"))
    try:
        if sandbox == "landlock" and os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield folder
    finally:
        # Not `shutil.rmtree`, because it recurses, and a program may have made deeply nested folders.
        if subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL).returncode:
            subprocess.run(["chmod", "-R", "u+rwX", folder], stderr=subprocess.DEVNULL)
            subprocess.run(["rm", "-rf", folder], check=True)
