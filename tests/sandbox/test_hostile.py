"""Programs that try to get out, to use up the machine, or to outlive their run, in each sandbox of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aquarat_core.errors import UsageError
from aquarat_core.sandbox import run as module
from aquarat_core.sandbox.limits import MIB, Limits, Outcome, SandboxName
from aquarat_core.sandbox.run import fault_of, in_parallel, run_python
from tests.patience import limit
from tests.sandbox.conftest import absence

LIMITS = Limits(cpu_seconds=2, wall_seconds=limit(10), memory_bytes=256 * MIB, folder_files=200)
Run = Callable[..., Outcome]
PROGRAM = "exec(compile(sys.stdin.buffer.read(), 'program'"
"""In the command line of every program that `run_python` runs, and of what it forks."""


@pytest.fixture
def run(sandbox: SandboxName) -> Run:
    def run(program: str, limits: Limits = LIMITS) -> Outcome:
        outcome = run_python(program, limits, sandbox)
        assert outcome.sandbox == sandbox
        return outcome

    return run


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that everybody may read and write, as far as its own mode says."""
    place = tmp_path / "outside"
    place.mkdir()
    place.chmod(0o777)
    for above in (tmp_path, *list(tmp_path.parents)[:2]):
        above.chmod(0o755)
    (place / "secret").write_text("the secret")
    (place / "secret").chmod(0o666)
    return place


def running(mark: str) -> set[str]:
    """Numbers of the processes, zombies apart, whose command line holds `mark`."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "cmdline").read_text(errors="replace"):
                found.add(process.name)
        except OSError:
            continue
    return found


def attempts(*codes: str) -> str:
    """A program that prints, for each code, the name of the exception that it ends in, or `done`."""
    return f"""
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
for code in {codes!r}:
    try:
        exec(code)
        print("done", code)
    except OSError as e:
        print(type(e).__name__)
"""


def refused(outcome: Outcome, times: int) -> None:
    assert outcome.status == 0, outcome
    lines = outcome.stdout.splitlines()
    assert len(lines) == times and all(line.endswith("Error") for line in lines), outcome


def test_an_honest_program_has_what_it_needs(run: Run) -> None:
    program = """
import collections, decimal, fractions, hashlib, itertools, json, math, random, re, statistics, string, sys, threading
open("mine", "w").write("x" * 1000)
import os
assert os.listdir(".") == ["mine"] and sys.stdin.read() == ""
done = []
thread = threading.Thread(target=lambda: done.append(1)); thread.start(); thread.join()
pid = os.fork()
if not pid:
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
print(math.pi, done, hashlib.sha256(b"x").hexdigest()[:8])
sys.exit(7)
"""
    outcome = run(program)
    assert (outcome.status, outcome.stdout, outcome.stopped) == (7, "3.141592653589793 [1] 2d711642\n", None), outcome


def test_nothing_of_the_environment_and_nobodys_rights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUARAT_TEST_TOKEN", "hidden")
    outcome = run("import os; print(os.getuid(), os.geteuid(), os.getgroups(), sorted(os.environ))")
    assert "AQUARAT" not in outcome.stdout
    if os.geteuid() == 0:
        assert outcome.stdout.startswith("65534 65534 ")


def test_no_reading(run: Run, outside: Path) -> None:
    home = str(Path.home())
    paths = (str(outside / "secret"), "/etc/passwd", "/etc/shadow", "/proc/1/environ", f"{Path(__file__)}")
    codes = [f"open({path!r}).read()" for path in paths]
    codes += [f"os.listdir({path!r})" for path in (str(outside), "/tmp", f"{home}/.ssh", str(Path(__file__).parent))]
    refused(run(attempts(*codes)), len(codes))


def test_no_writing(run: Run, outside: Path) -> None:
    secret, place = str(outside / "secret"), str(outside)
    codes = (
        f"open({secret!r}, 'a').write('x')", f"os.truncate({secret!r}, 0)", f"os.unlink({secret!r})",
        f"os.rename({secret!r}, {secret!r} + '2')", f"os.chmod({secret!r}, 0)", f"os.utime({secret!r}, (0, 0))",
        f"os.setxattr({secret!r}, 'user.x', b'x')", f"open({place!r} + '/new', 'w')", f"os.mkdir({place!r} + '/new')",
        f"os.symlink('x', {place!r} + '/new')", f"os.link({secret!r}, 'linked')", f"os.chown({secret!r}, 1, 1)",
        "open('/tmp/aquarat-hostile', 'w')", "open('/dev/shm/aquarat-hostile', 'w')", "open('/usr/lib/x', 'w')",
        "open('/aquarat-hostile', 'w')", "os.mkfifo('pipe')",
    )  # fmt: skip
    refused(run(attempts(*codes)), len(codes))
    assert (outside / "secret").read_text() == "the secret" and os.listdir(outside) == ["secret"]
    assert (outside / "secret").stat().st_mode & 0o777 == 0o666


def test_no_network(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        tcp, udp = server.getsockname(), datagrams.getsockname()
        codes = (
            f"socket.create_connection({tcp!r}, 1)",
            f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', {udp!r})",
            "socket.create_server(('127.0.0.1', 0))",
            "socket.socket(socket.AF_UNIX).connect('\\0abstract')",
            "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
            "check(libc.syscall(41, 2, 2, 0))",  # socket
            "check(libc.syscall(425, 8, ctypes.create_string_buffer(256)))",  # io_uring_setup
        )
        refused(run(attempts(*codes)), len(codes))
        datagrams.setblocking(False)
        with pytest.raises(BlockingIOError):
            datagrams.recv(1)


def test_no_reaching_for_other_processes(run: Run) -> None:
    victim = subprocess.Popen(["sleep", "60"], **({"user": 65534, "group": 65534} if os.geteuid() == 0 else {}))
    try:
        targets = (victim.pid, os.getpid())
        codes = [f"os.kill({pid}, 9)" for pid in targets] + ["os.kill(os.getppid(), 9)", "os.kill(-1, 9)"]
        codes += [f"check(libc.ptrace(16, {pid}, 0, 0))" for pid in (*targets, 1)]
        codes += [f"open('/proc/{pid}/mem', 'rb')" for pid in targets]
        codes += [f"check(libc.syscall(62, {victim.pid}, 9))", f"check(libc.syscall(434, {victim.pid}, 0))"]
        codes += [f"__import__('resource').prlimit({pid}, 0, (0, 0))" for pid in targets]
        codes += [f"__import__('fcntl').fcntl(0, 8, {victim.pid})", "os.setsid()", "os.setpgid(0, 0)"]
        codes += ["check(libc.unshare(0x10000000))", "check(libc.syscall(56, 0x10000011, 0, 0, 0, 0))"]
        refused(run(attempts(*codes)), len(codes))
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@pytest.mark.parametrize("fork", ["os.fork()", "libc.fork()", "libc.syscall(57)", "libc.syscall(56, 17, 0, 0, 0, 0)"])
def test_fork_bombs_stop_at_the_limit(run: Run, fork: str) -> None:
    program = f"""
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
made = 0
for _ in range(300):
    try:
        pid = {fork}
    except OSError:
        break
    if pid == 0:
        time.sleep(600)
    if pid < 0:
        break
    made += 1
print(made)
"""
    outcome = run(program)
    assert outcome.stdout.strip().isdigit(), outcome
    assert 0 < int(outcome.stdout) < LIMITS.processes


def test_fork_bombs_without_end_are_killed(run: Run) -> None:
    outcome = run(
        "import os\nwhile True:\n try:\n  os.fork()\n except OSError:\n  pass", replace(LIMITS, wall_seconds=2)
    )
    assert outcome.stopped == "time" or outcome.status, outcome


def test_a_run_does_not_count_the_processes_of_another(run: Run) -> None:
    """Each may have its eight, though both are nobody's."""
    program = "import os, time\nfor _ in range(5):\n if not os.fork():\n  time.sleep(600)\ntime.sleep(1)\nprint('ok')"
    outcomes = in_parallel(lambda _: run(program), range(3), workers=3)
    assert [o.stdout for o in outcomes] == ["ok\n"] * 3, outcomes


@pytest.mark.parametrize("leave", ["os.setsid()", "os.setpgid(0, 0)", "libc.syscall(112)", "libc.syscall(109, 0, 0)"])
def test_daemons_die_with_the_run(run: Run, leave: str) -> None:
    program = f"""
import ctypes, os, time
libc = ctypes.CDLL(None)
if not os.fork():
    try:
        {leave}
    except OSError:
        pass
    if not os.fork():
        for file in range(3):
            os.close(file)
        time.sleep(600)
    os._exit(0)
time.sleep(0.2)
print("left")
"""
    before = running(PROGRAM)
    outcome = run(program)
    assert outcome.stdout == "left\n", outcome
    assert running(PROGRAM) <= before


def test_time(run: Run) -> None:
    outcome = run("while True: pass")
    assert outcome.status in (128 + 9, 128 + 24) and outcome.seconds < LIMITS.wall_seconds, outcome
    outcome = run("import time; time.sleep(600)", replace(LIMITS, wall_seconds=1))
    assert outcome.timed_out and outcome.status == 128 + 9, outcome
    ignoring = "import signal, time\nfor s in range(1, 32):\n try: signal.signal(s, signal.SIG_IGN)\n except: pass\n"
    assert run(ignoring + "time.sleep(600)", replace(LIMITS, wall_seconds=1)).timed_out


def test_memory(run: Run) -> None:
    assert "MemoryError" in run("x = bytearray(2 << 30)").stderr
    spread = """
import os, time
for _ in range(5):
    if not os.fork():
        x = bytearray(80 << 20)
        for i in range(0, len(x), 4096): x[i] = 1
        time.sleep(600)
time.sleep(600)
"""
    outcome = run(spread)
    assert outcome.stopped == "memory" and outcome.peak_bytes > LIMITS.memory_bytes, outcome


def test_output(run: Run) -> None:
    for program in ("while True: print('x' * 100000)", "import sys\nwhile True: sys.stderr.write('x' * 100000)"):
        outcome = run(program)
        assert outcome.stopped == "output", outcome
        assert len(outcome.stdout) + len(outcome.stderr) == LIMITS.output_bytes


def test_disk(run: Run) -> None:
    outcome = run("f = open('big', 'wb')\nfor _ in range(400): f.write(bytes(1 << 20))")
    assert outcome.status == 1 and "File too large" in outcome.stderr, outcome
    many = "import os\nfor i in range(400):\n with open(f'f{i}', 'wb') as f: f.write(bytes(8 << 20))\nprint('all')"
    outcome = run(many)
    assert outcome.stopped == "folder" or "No space left" in outcome.stderr, outcome
    assert "Too many open files" in run("kept = [open('x', 'w') for _ in range(100)]").stderr


def test_many_files_end_and_leave_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    nested = "import os\nfor i in range(20000):\n os.mkdir('d'); os.chdir('d')\nopen('x', 'w')"
    far_down = "import os, time\nfor i in range(20):\n os.mkdir('d' * 250); os.chdir('d' * 250)\ntime.sleep(2)"
    for program in (nested, far_down):
        outcome = run(program)
        assert outcome.sandbox == "bubblewrap" or outcome.stopped == "folder", outcome
    run("import os; os.makedirs('a/b'); open('a/b/c', 'w'); os.mkdir('closed', 0)")
    assert list(tmp_path.iterdir()) == []


def test_the_attempts_succeed_where_nothing_confines_them(outside: Path) -> None:
    """Or the tests above would show nothing."""
    secret = str(outside / "secret")
    codes = (
        f"open({secret!r}).read()", "open('/etc/passwd').read()", f"open({secret!r}, 'a').write('x')",
        f"os.utime({secret!r}, (0, 0))", f"os.chmod({secret!r}, 0o600)", "socket.create_server(('127.0.0.1', 0))",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))", "os.kill(os.getppid(), 0)",
        "check(libc.syscall(41, 2, 2, 0))", "check(libc.syscall(434, os.getppid(), 0))",
        "__import__('resource').prlimit(os.getppid(), 0)", "os.mkfifo('pipe')", "open('/proc/1/stat').read()",
    )  # fmt: skip
    outcome = run_python(attempts(*codes), LIMITS, "none")
    assert [line.partition(" ")[0] for line in outcome.stdout.splitlines()] == ["done"] * len(codes), outcome


def test_a_machine_with_no_sandbox_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fault_of", lambda name: f"no {name} here")
    with pytest.raises(UsageError, match=r"no sandbox .* \(bubblewrap: no .*; landlock: no .*\)\. Install bubblewrap"):
        run_python("print(1)")
    with pytest.raises(UsageError, match="landlock: no landlock here"):
        run_python("print(1)", sandbox="landlock")
    assert run_python("print(1)", sandbox="none").sandbox == "none"


def test_without_bubblewrap_landlock_is_taken_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if absence("landlock") is not None:
        pytest.skip(f"NOT TRIED: {absence('landlock')}")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    fault_of.cache_clear()
    assert run_python("print(1)").sandbox == "landlock"
    fault_of.cache_clear()
