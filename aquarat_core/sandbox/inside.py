"""The first program in the sandbox: gives up all of its rights, then becomes the interpreter of the program.

It runs as root or as the user, under bubblewrap or not, and holds no secrets that the program must not know.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from contextlib import suppress
from typing import TypedDict

from aquarat_core.sandbox import landlock, seccomp

NOBODY = 65534
READY = b"ready"
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_SIGKILL = 9


class Plan(TypedDict):
    """The request of the process outside, as JSON."""

    report: int
    """File descriptor for `READY`, or for the reason why there is no sandbox."""
    folder: str
    """The working directory."""
    prefix: str
    """The interpreter's folder."""
    executable: str
    """The interpreter, relative to that folder."""
    command: list[str]
    """The interpreter's arguments."""
    environment: dict[str, str]
    own_count: bool
    """Whether processes must be counted separately from those of other runs and of the user."""
    confined: bool
    """False for no sandbox at all, only limits."""
    readable: list[str] | None
    """Paths for Landlock; None without it."""
    writable: list[str]
    rlimits: dict[str, int]


def main() -> None:
    """Never returns: the interpreter replaces this process, or it reports the reason and exits with code 1."""
    plan: Plan = json.loads(sys.argv[1])
    try:
        _enter(plan)
    except BaseException as e:
        os.write(plan["report"], f"{type(e).__name__}: {e}".encode())
    os._exit(1)


def _enter(plan: Plan) -> None:
    os.chdir(plan["folder"])
    interpreter, environment = os.path.join(plan["prefix"], plan["executable"]), dict(plan["environment"])
    rules = None
    if plan["readable"] is not None:
        rules = landlock.ruleset(plan["readable"], plan["writable"])
        if os.getuid() == 0:
            # The user `nobody` may be unable to reach the interpreter by path, but can through a folder that is already
            # open.
            opened = os.open(plan["prefix"], os.O_PATH)
            os.set_inheritable(opened, True)
            interpreter = f"/proc/self/fd/{opened}/{plan['executable']}"
            environment["LD_LIBRARY_PATH"] = f"/proc/self/fd/{opened}/lib"
    if plan["confined"]:
        _drop_user()
        if plan["own_count"]:
            with suppress(OSError):  # Forbidden on some machines: runs then share the limit, which still holds.
                _own_user_namespace()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(_SIGKILL))
    # Orphaned descendants become children of this process, so that their memory is counted.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
    for name, limit in plan["rlimits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    os.umask(0o077)
    if plan["confined"]:
        _no_new_privileges()
        if rules is not None:
            landlock.enforce(rules)
        seccomp.install()
    os.write(plan["report"], READY)
    os.set_inheritable(plan["report"], False)
    os.execve(interpreter, [interpreter, *plan["command"]], environment)


def _drop_user() -> None:
    """Root becomes the user `nobody`, because the limit on processes does not apply to root."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _no_new_privileges() -> None:
    """From here on, no started program gains rights through its set-uid bit."""
    if ctypes.CDLL(None).prctl(
        _PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)
    ):
        raise OSError("the kernel does not know PR_SET_NO_NEW_PRIVS")


def _own_user_namespace() -> None:
    """Linux 5.14 and newer count a user's processes per namespace. The rights in it are lost at `execve`."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(1))  # Otherwise the files below would belong to root after setuid.
    if libc.unshare(_CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "no user namespace")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)
