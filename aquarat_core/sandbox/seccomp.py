"""The filter of system calls in the sandbox; runs inside it.

The namespaces of bubblewrap and the rules of Landlock each leave gaps: new user namespaces (a tmpfs in one has no
limit), UDP and local sockets, signals from processes of the same user, modes and times of files, leaving the process
group. One filter closes all of them in both sandboxes. It lists the forbidden calls, because Python needs so many calls
that a list of allowed ones would break from one version to the next.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl of Linux; filters: Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

REFUSED = {
    # network, and io_uring, which opens sockets past this filter
    "socket": 41, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    # other processes
    "ptrace": 101, "tkill": 200, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440, "setpriority": 141,
    "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203, "sched_setattr": 314,
    "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279,
    # leaving the process group, which is how a run is killed
    "setpgid": 109, "setsid": 112,
    # namespaces and mounts
    "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442,
    "open_tree_attr": 467,
    # memory that no limit counts, or that outlives the run
    "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "add_key": 248,
    "request_key": 249, "keyctl": 250,
    # changes to files that Landlock does not prevent
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93, "lchown": 94,
    "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280, "setxattr": 188,
    "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199,
    "setxattrat": 463, "removexattrat": 466, "file_setattr": 469, "truncate": 76, "mknod": 133, "mknodat": 259,
    "inotify_init": 253, "inotify_init1": 294, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    # parts of the kernel that such a program does not need
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "personality": 135, "syslog": 103, "acct": 163,
    "quotactl": 179, "quotactl_fd": 443, "swapon": 167, "swapoff": 168, "reboot": 169, "init_module": 175,
    "delete_module": 176, "finit_module": 313, "kexec_load": 246, "kexec_file_load": 320,
}  # fmt: skip
_CLONE, _CLONE3, _FCNTL, _IOCTL = 56, 435, 72, 16
_FIRST_ARGUMENT_IS_A_PROCESS = {"kill": 62, "rt_sigqueueinfo": 129, "tgkill": 234, "rt_tgsigqueueinfo": 297,
                                "prlimit64": 302}  # fmt: skip
_NEW_NAMESPACES = 0x7E020000
_CLONE_PARENT = 0x8000
"""Would make the new process a child of our own parent, which does not wait for it."""
_FCNTL_SIGNALS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: make a file descriptor send signals to any process of the user."""
_IOCTL_SIGNALS = (0x8901, 0x8902)
"""FIOSETOWN, SIOCSPGRP: the same for sockets."""

_ARCHITECTURE = 0xC000003E
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


def filter_program(pid: int) -> bytes:
    """The filter as BPF instructions, 8 bytes each. Signals and limits may only be set for `pid` and the caller."""
    refuse = _step(_RETURN, _ERROR | errno.EPERM)
    allow = _step(_RETURN, _ALLOW)
    steps = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_EQUAL, _ARCHITECTURE, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
        _step(_AT_LEAST, _X32, 0, 1),
        refuse,
    ]
    for number in REFUSED.values():
        steps += [_step(_EQUAL, number, 0, 1), refuse]
    # Its flags are behind a pointer. C libraries use `clone` if it is not available.
    steps += [_step(_EQUAL, _CLONE3, 0, 1), _step(_RETURN, _ERROR | errno.ENOSYS)]
    steps += _where(_CLONE, [_argument(0), _step(_ANY_BIT, _NEW_NAMESPACES | _CLONE_PARENT, 0, 1), refuse, allow])
    for number, commands in ((_FCNTL, _FCNTL_SIGNALS), (_IOCTL, _IOCTL_SIGNALS)):
        body = [_argument(1)]
        for command in commands:
            body += [_step(_EQUAL, command, 0, 1), refuse]
        steps += _where(number, [*body, allow])
    for number in _FIRST_ARGUMENT_IS_A_PROCESS.values():
        steps += _where(number, [_argument(0), _step(_EQUAL, pid, 1, 0), _step(_EQUAL, 0, 0, 1), allow, refuse])
    return b"".join([*steps, allow])


def install() -> None:
    """From now on, deny these calls to this process and all that it starts. Requires "no new privileges".

    Raises `OSError` if the kernel does not support it.
    """
    if os.uname().machine != "x86_64":
        raise OSError(f"its filter of system calls is for x86_64, but this is {os.uname().machine}")
    program = filter_program(os.getpid())
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    unused = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.c_char_p(header), unused, unused):
        raise OSError(f"the kernel does not accept the filter of system calls: {os.strerror(ctypes.get_errno())}")


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _argument(index: int) -> bytes:
    """The low half of an argument, because the kernel only reads an int."""
    return _step(_LOAD, _ARGUMENTS_AT + 8 * index)


def _where(number: int, body: list[bytes]) -> list[bytes]:
    """`body`, which returns on every path, for one system call."""
    return [_step(_EQUAL, number, 0, len(body)), *body]
