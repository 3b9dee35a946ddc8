"""Landlock by its three system calls; runs inside the sandbox.

Landlock removes a process's access to all files except those under given paths, and needs no privileges. Source:
Documentation/userspace-api/landlock.rst of Linux. Older kernels know fewer rights; `seccomp` covers what they lack.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_VERSION = (1 << 13) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3


def version() -> int:
    """The version of Landlock's interface. Raises `OSError` if the kernel lacks it or it is switched off."""
    return _call(_CREATE_RULESET, None, 0, _VERSION)


def ruleset(readable: Iterable[str], writable: Iterable[str]) -> int:
    """Rules that allow reading and running files under `readable`, and reading and writing files under `writable`."""
    found = version()
    rights = _FIRST_VERSION
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        rights |= right if found >= since else 0
    attributes = struct.pack("QQQ", rights, _TCP, _ABSTRACT_SOCKETS_AND_SIGNALS)
    rules = _call(_CREATE_RULESET, attributes, 8 if found < 4 else 16 if found < 6 else 24, 0)
    for path in readable:
        _allow(rules, path, _EXECUTE | _READ_FILE | _READ_DIR)
    for path in writable:
        _allow(rules, path, rights & ~_EXECUTE)
    return rules


def enforce(rules: int) -> None:
    """Applies the rules from now on; the process must already have set "no new privileges"."""
    _call(_RESTRICT_SELF, rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISDIR(os.fstat(place).st_mode):
        rights &= _OF_FILES
    _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    long = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    answer = libc.syscall(ctypes.c_long(number), *long)
    if answer < 0:
        raise OSError(f"Landlock: {os.strerror(ctypes.get_errno())}")
    return answer
