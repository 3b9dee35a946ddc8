"""The supervisor of one job on one host: runs the job's command, keeps its lease, and stops it.

It stops the job on request (SIGTERM, or `cancel.json` in the job's folder), and by itself if no heartbeat has reached
the store for as long as a lease is valid. By then the control host may start the job elsewhere, and two trainers must
never write. A watchdog process kills the job if the supervisor itself is killed or frozen.
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import leases, logs, processes
from .folder import BrokenObject, open_folder
from .output import Output
from .uploading import StatusUploader

if TYPE_CHECKING:
    from .protocol import EndedStatus, Lease, NodeEnd, NodeFacts, ProcessId, StartRequest, SupervisorRecord

FINAL_SECONDS = 30.0
"""How long uploading the last output and the last status may take."""
SCRATCH = "scratch"
"""The job's working directory, within its directory on this host."""
WATCHDOG_SECONDS = 1.0
"""How often the watchdog checks whether the supervisor still has contact with the store."""
LATE_SECONDS = 3.0
"""How long a watchdog looks for processes of a job whose supervisor was killed."""


def supervise(root: Path, directory: Path, request: StartRequest, lease: Lease) -> int:
    """Runs the job to its end and releases the lease; returns the supervisor's exit code."""
    return _Supervisor(root, directory, request, lease).run()


class _Supervisor:
    def __init__(self, root: Path, directory: Path, request: StartRequest, lease: Lease) -> None:
        self._root = root
        self._directory = directory
        self._request = request
        self._lease = lease
        self._stopping: str | None = None
        self._stop_asked_at = 0.0
        self._scratch = directory / SCRATCH
        self._scratch.mkdir()
        self._output = Output(request["ranks"], self._scratch / "messages")
        self._last_token: str | None = None
        self._folder = open_folder(request["job"], self._token)
        facts: NodeFacts = {
            "node": request["node"],
            "host": request["host"],
            "supervisor": processes.identity(os.getpid()),
        }
        self._uploader = StatusUploader(self._folder, self._output, facts, request["heartbeat"])
        self._renewed = 0.0
        self._log_bytes: int = request.get("log_bytes", logs.LOG_BYTES)
        self._pids: list[int] = []
        self._child: int | None = None

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        who: SupervisorRecord = {
            **processes.identity(os.getpid()),
            "mark": self._request["mark"],
            "job": self._request["job"],
            "grace": self._request["grace"],
        }
        processes.write_durably(self._directory / "supervisor.json", who)
        processes.adopt_orphans()
        watchdog, write_fd = self._start_watchdog()
        self._pids = [os.getpid(), watchdog]
        self._renew()
        self._uploader.start()
        try:
            child = self._start()
        except OSError as e:
            return self._end(write_fd, None, f"{self._request['argv'][0]} cannot be started: {e}")
        self._child = child.pid
        code = self._watch(child)
        self._kill_job()
        self._output.finish()
        return self._end(write_fd, code, self._stopping)

    def _start(self) -> subprocess.Popen[bytes]:
        request = self._request
        messages = base64.b64encode(zlib.compress(json.dumps({"path": str(self._scratch / "messages")}).encode()))
        env = {"AQUARAT_SCRATCH": str(self._scratch), **(os.environ if request["inherit"] else _base_environment())}
        env.update(request["env"])
        env.update({processes.ENV_TAG: request["mark"], "DAGSTER_PIPES_MESSAGES": messages.decode()})
        if not request["inherit"]:
            env["TMPDIR"] = str(self._scratch)
        if request.get("token"):
            env["AQUARAT_STORE_TOKEN_FILE"] = str(self._directory / "token")
        if self._lease["gpus"]:
            env["CUDA_VISIBLE_DEVICES"] = _visible(self._lease["gpus"], env.get("CUDA_VISIBLE_DEVICES", ""))
        program, *rest = [part.replace("{scratch}", str(self._scratch)) for part in request["argv"]]
        return subprocess.Popen(
            # The interpreter is in the host's root, which is in the home folder unless the inventory says otherwise.
            [os.path.expanduser(program), *rest],
            env=env,
            cwd=request.get("cwd") or self._scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _watch(self, child: subprocess.Popen[bytes]) -> int:
        """Reads the job's output until it has ended or was stopped; returns its exit code."""
        assert child.stdout is not None
        pipe = child.stdout.fileno()
        os.set_blocking(pipe, False)
        terminated = False
        while child.poll() is None:
            self._read(pipe, 0.1)
            self._renew()
            self._fence()
            if self._stopping and not terminated:
                terminated = True
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)
            if terminated and time.monotonic() - self._stop_asked_at > self._request["grace"]:
                self._kill_job()
        while self._read(pipe, 0):
            pass
        return child.returncode

    def _read(self, pipe: int, seconds: float) -> bool:
        """Reads available output, waiting for it at most `seconds`; returns False if there was none."""
        if self._output.is_full:
            if leases.now() - self._uploader.contact < 2 * self._request["heartbeat"] + 1:
                time.sleep(0.02)
                return True
            self._output.make_room()
        self._output.feed_messages()
        ready, _, _ = select.select([pipe], [], [], seconds)
        if not ready:
            return False
        data = os.read(pipe, 1 << 16)
        if not data:
            # All ends of the pipe are closed although the leader is still running.
            time.sleep(seconds)
            return False
        self._output.feed(data)
        return True

    def _fence(self) -> None:
        if self._uploader.cancelled:
            self._ask("cancelled")
        silent = leases.now() - self._uploader.contact
        if silent > self._request["ttl"]:
            self._ask(f"the store could not be reached for {silent:.0f} s: another host may have taken the job over")
            self._kill_job()

    def _kill_job(self) -> None:
        """Kills all descendants except the watchdog, and all other processes with the job's tag in their
        environment."""

        def below() -> list[int]:
            return [pid for pid in processes.descendants([os.getpid()]) if pid not in self._pids]

        processes.kill_job_processes(self._request["mark"], others=below)

    def _on_sigterm(self, number: int, frame: object) -> None:
        self._ask(leases.drained(self._root) or "asked to stop")

    def _ask(self, reason: str) -> None:
        if self._stopping is None:
            self._stopping = reason
            self._stop_asked_at = time.monotonic()

    def _renew(self) -> None:
        if leases.now() - self._renewed < self._request["heartbeat"]:
            return
        self._renewed = leases.now()
        processes.reap([*self._pids, self._child] if self._child else self._pids)
        logs.bound(self._scratch, self._log_bytes)
        # On a full disk the lease stays valid through its processes.
        with suppress(OSError):
            leases.hold(self._root, self._lease, self._pids, self._request["ttl"])

    def _end(self, write_fd: int, code: int | None, reason: str | None) -> int:
        """Uploads the rest, releases the lease, then writes the status: a reader of `ended` may start the next job."""
        self._child = None
        self._uploader.stop()
        complete = self._uploader.upload_rest(FINAL_SECONDS)
        logs.close(self._scratch, self._log_bytes)
        clean_up(self._root, self._directory)
        # torchrun exits with 2 if it rejects its arguments: another attempt would end the same way.
        torchrun_failed = self._request["ranks"] and code not in (None, 0, 2)
        end: NodeEnd = {
            "state": "ended",
            "code": code,
            "signal": self._output.signal,
            "launcher_failed": torchrun_failed and not self._output.cause_seen,
            "reason": reason,
            "complete": complete,
            "tail": list(self._output.tail or self._output.launcher_tail),
        }
        deadline = time.monotonic() + FINAL_SECONDS
        while True:
            try:
                self._uploader.report_ended(end)
                break
            except OSError as e:
                print(f"the last status: {e}", flush=True)
                if time.monotonic() > deadline:
                    break
                time.sleep(1)
        os.write(write_fd, b"done")
        return 0

    def _start_watchdog(self) -> tuple[int, int]:
        """Starts a process that waits on a pipe for the end of this one, and cleans up if it was unexpected."""
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid:
            os.close(read_fd)
            return pid, write_fd
        os.close(write_fd)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.setsid()
        try:
            seen: dict[int, ProcessId] = {}
            while not select.select([read_fd], [], [], WATCHDOG_SECONDS)[0]:
                self._fence_from_watchdog(seen)
            if os.read(read_fd, 4) != b"done":
                self._clean_up_after_death(seen)
        finally:
            os._exit(0)

    def _fence_from_watchdog(self, seen: dict[int, ProcessId]) -> None:
        """Ends the job if its supervisor is frozen. Records its descendants, in case the supervisor is killed."""
        supervisor = os.getppid()
        for pid in processes.descendants([supervisor]):
            if pid != os.getpid() and pid not in seen:
                seen[pid] = processes.identity(pid)
        for pid in [pid for pid, who in seen.items() if not processes.is_alive(who)]:
            del seen[pid]
        if leases.now() - self._uploader.contact > self._request["ttl"] + WATCHDOG_SECONDS:
            processes.kill_job_processes(self._request["mark"], others=lambda: _alive(seen))

    def _clean_up_after_death(self, seen: dict[int, ProcessId]) -> None:
        # A forked child that has not yet executed the job's command does not have the tag, so look again.
        deadline = time.monotonic() + LATE_SECONDS
        while time.monotonic() < deadline:
            processes.kill_job_processes(self._request["mark"], others=lambda: _alive(seen))
            time.sleep(0.2)
        self._token()
        clean_up(self._root, self._directory)
        deadline = time.monotonic() + FINAL_SECONDS
        while time.monotonic() < deadline:
            try:
                chunks = self._chunks_there(self._previous_status().get("chunks", 0))
                status: EndedStatus = {
                    "node": self._request["node"],
                    "host": self._request["host"],
                    "state": "ended",
                    "code": None,
                    "chunks": chunks,
                    "sequence": -1,
                    "signal": None,
                    "launcher_failed": False,
                    "reason": "its supervisor was killed",
                    "complete": False,
                    "tail": [],
                }
                self._folder.write(f"status/node{self._request['node']}.json", status)
                return
            except OSError:
                time.sleep(1)

    def _previous_status(self) -> dict[str, Any]:
        try:
            found = self._folder.read(f"status/node{self._request['node']}.json")
        except BrokenObject as e:
            print(f"the last status: {e}", flush=True)
            found = None
        return cast("dict[str, Any]", found) if isinstance(found, dict) else {}

    def _chunks_there(self, at_least: int) -> int:
        """The number of chunks in the folder, including those written after the last status."""
        with suppress(BrokenObject):
            while self._folder.read(f"output/node{self._request['node']}/{at_least + 1:06d}.json") is not None:
                at_least += 1
        return at_least

    def _token(self) -> str | None:
        """The current token. Once the file is removed, the previous one, which the last status needs."""
        with suppress(FileNotFoundError):
            self._last_token = json.loads((self._directory / "token").read_text())["token"]
        return self._last_token


def _alive(seen: dict[int, ProcessId]) -> list[int]:
    return [pid for pid, who in seen.items() if processes.is_alive(who)]


def clean_up(root: Path, directory: Path) -> None:
    """Releases the lease of the job in `directory` and removes the job's leftovers, except its logs."""
    with leases.locked(root):
        leases.drop(root, directory.name)
    remove_rest(directory)


def remove_rest(directory: Path) -> None:
    """Removes a dead job's token and its scratch files except logs; other processes may do so at the same time."""
    for path in [directory / "token", directory / "token.new"]:
        path.unlink(missing_ok=True)
    for folder, folders, names in os.walk(directory / SCRATCH, topdown=False):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in names + links:
            if not name.endswith(".log"):
                with suppress(OSError):
                    os.unlink(Path(folder, name))
        with suppress(OSError):
            os.rmdir(folder)  # fails if a log is in it
    with suppress(OSError):
        (directory / "ended").touch()


def _base_environment() -> dict[str, str]:
    """The login's variables that a job on a remote host inherits: paths and settings, no secrets."""
    kept = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "USER", "LD_LIBRARY_PATH", "STORAGE_EMULATOR_HOST")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _visible(gpus: list[int], given: str) -> str:
    """CUDA_VISIBLE_DEVICES for a job with these GPUs of the host, whose own devices may be limited by `given`."""
    names = given.split(",") if given else []
    return ",".join(names[gpu] if max(gpus) < len(names) else str(gpu) for gpu in gpus)
