"""How the control host calls a host's agent: as a local process, or through the OpenSSH client.

Each call is one command with a JSON object as input and one as output. Secrets are in the input object, so they are
only passed on standard input. The OpenSSH client uses the user's configuration, agent, jump hosts and host keys, or for
a rented host the key and host key in its record; checks of host keys are never relaxed. Calls to a host share one
connection (ControlMaster), which ends soon after the last one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol, cast

from aquarat_core.artifacts.files import atomic_write
from aquarat_pipeline.hosts.bundle import agent
from aquarat_pipeline.hosts.host import Host

CALL_SECONDS = 60.0
NO_AGENT = 111
MAX_OUTPUT = 32 << 20
"""Bytes of an answer. A host that is not ours may send without end, and must not fill the memory here."""


class HostError(OSError):
    """A host that could not be reached, or whose agent failed; trying again may help."""


class HostKeyError(HostError):
    """A host that shows another key than the one that is known; nothing was sent to it."""


class Transport(Protocol):
    """The connection to one host."""

    def call(self, command: str, request: Mapping[str, object], seconds: float = CALL_SECONDS) -> dict[str, Any]:
        """The agent's reply. Raises `HostError` if there is none, or it is an error.

        `HostAgent` has a method for each command.
        """
        ...


def transport_to(host: Host) -> Transport:
    """The transport for `host`, according to the inventory."""
    return LocalTransport(host) if host.transport == "local" else SshTransport(host)


class LocalTransport:
    """Runs the agent on this machine as a child process, which leaves the supervisor behind."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._root = Path(host.root).expanduser()

    def call(self, command: str, request: Mapping[str, object], seconds: float = CALL_SECONDS) -> dict[str, Any]:
        argv = [sys.executable, "-I", "-S", str(self._installed()), command, str(self._root)]
        try:
            done = subprocess.run(argv, input=json.dumps(request).encode(), capture_output=True, timeout=seconds)
        except (OSError, subprocess.TimeoutExpired) as e:
            raise HostError(f"the agent on {self._host.name}: {e}") from None
        return _reply(self._host, done)

    def _installed(self) -> Path:
        path = self._root / "agent" / agent().name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, private=True) as file:
                file.write(agent().data)
        return path


class SshTransport:
    """Reaches a host with this machine's `ssh`."""

    CONNECT_SECONDS = 10
    PERSIST_SECONDS = 15
    """How long the connection stays open for another call; a step that waits for a host calls every two seconds."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def call(self, command: str, request: Mapping[str, object], seconds: float = CALL_SECONDS) -> dict[str, Any]:
        root = shell_path(self._host.root)
        path = f"{root}/agent/{agent().name}"
        script = f"[ -f {path} ] || exit {NO_AGENT}; exec python3 -I -S {path} {command} {root}"
        done = self.shell(script, json.dumps(request).encode(), seconds)
        if done.returncode == NO_AGENT:
            self.send(agent().data, f"{self._host.root}/agent/{agent().name}")
            done = self.shell(script, json.dumps(request).encode(), seconds)
        return _reply(self._host, done)

    def send(self, data: bytes, path: str, seconds: float = 600.0) -> None:
        """Writes `data` to `path` on the host atomically, after verifying its hash there."""
        target = shell_path(path)
        digest = hashlib.sha256(data).hexdigest()
        script = (
            f'umask 077; mkdir -p "$(dirname {target})" && cat > {target}.$$ && '
            f"echo '{digest}' \" $(readlink -f {target}.$$)\" | sha256sum --check --quiet - && mv {target}.$$ {target}"
        )
        done = self.shell(script, data, seconds)
        if done.returncode:
            raise HostError(f"cannot write {path} on {self._host.name}: {_reason(done)}")

    def shell(
        self, script: str, given: bytes = b"", seconds: float = CALL_SECONDS
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs one of our scripts in the host's sh. Raises `HostError` if the host cannot be reached."""
        argv = ["ssh", *self._options(), "--", str(self._host.address), f"sh -c {shlex.quote(script)}"]
        try:
            done = _run(argv, given, seconds)
        except FileNotFoundError:
            raise HostError("ssh is not installed here: install the OpenSSH client (Debian: openssh-client)") from None
        except subprocess.TimeoutExpired:
            raise HostError(
                f"{self._host.name} ({self._host.address}) does not answer within {seconds:.0f} s"
            ) from None
        if len(done.stdout) > MAX_OUTPUT or len(done.stderr) > MAX_OUTPUT:
            raise HostError(f"{self._host.name} ({self._host.address}) sent more than {MAX_OUTPUT >> 20} MB: cut off")
        if done.returncode == 255:
            unknown = b"Host key verification failed" in done.stderr
            raise (HostKeyError if unknown else HostError)(
                f"{self._host.name} ({self._host.address}) cannot be reached: {_reason(done)}"
            )
        return done

    def close(self) -> None:
        """Ends the shared connection, if any, together with other calls that use it."""
        argv = ["ssh", *self._options(), "-O", "exit", "--", str(self._host.address)]
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=self.CONNECT_SECONDS)

    def _options(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": str(self.CONNECT_SECONDS),
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPath": f"{_socket_directory()}/{self._host.connection}",
            "ControlPersist": str(self.PERSIST_SECONDS),
            "ForwardAgent": "no",
            "LogLevel": "ERROR",
            **self._host.ssh_options,
        }
        configured = os.environ.get("AQUARAT_SSH_CONFIG")
        return [*(["-F", configured] if configured else []), *(f"-o{k}={v}" for k, v in options.items())]


def _run(argv: Sequence[str], given: bytes, seconds: float) -> subprocess.CompletedProcess[bytes]:
    """As `subprocess.run` with captured output, but ends a process that prints more than `MAX_OUTPUT` bytes."""
    ended = time.monotonic() + seconds
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    outputs = bytearray(), bytearray()

    def read(pipe: IO[bytes], output: bytearray) -> None:
        with pipe:
            while len(output) <= MAX_OUTPUT and (chunk := os.read(pipe.fileno(), 1 << 16)):
                output += chunk
        if len(output) > MAX_OUTPUT:
            process.kill()

    def write(pipe: IO[bytes]) -> None:
        with suppress(OSError), pipe:
            pipe.write(given)

    assert process.stdin and process.stdout and process.stderr
    work = [
        threading.Thread(target=read, args=(process.stdout, outputs[0]), daemon=True),
        threading.Thread(target=read, args=(process.stderr, outputs[1]), daemon=True),
        threading.Thread(target=write, args=(process.stdin,), daemon=True),
    ]
    try:
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(max(ended - time.monotonic(), 0))
        if any(thread.is_alive() for thread in work):
            raise subprocess.TimeoutExpired(argv, seconds)
        code = process.wait(max(ended - time.monotonic(), 0))
    finally:
        process.kill()
        process.wait()
    return subprocess.CompletedProcess(argv, code, bytes(outputs[0]), bytes(outputs[1]))


def _reply(host: Host, done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    out = done.stdout.decode(errors="replace")
    try:
        reply: Any = json.loads(out.splitlines()[-1])
        if not isinstance(reply, dict):
            raise ValueError
    except (IndexError, ValueError, RecursionError):
        raise HostError(f"the agent on {host.name} ended with {done.returncode}: {_reason(done)}") from None
    if "error" in reply:
        trace = f"\n{reply['traceback']}" if "traceback" in reply else ""
        raise HostError(f"the agent on {host.name}: {reply['error']}{trace}")
    return cast("dict[str, Any]", reply)


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    err = done.stderr.decode(errors="replace")
    return " ".join(err.split())[-400:] or "it printed no reason"


def _socket_directory() -> str:
    """A directory owned by this user for the connections' sockets, whose paths must stay short."""
    directory = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"aquarat-ssh-{os.getuid()}"
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()  # lstat does not follow a link that another user made.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HostError(
            f"{directory}, for the sockets of ssh connections, is not a directory that you own and only you can enter: "
            "find out who made it, and remove it"
        )
    return str(directory)


def shell_path(path: str) -> str:
    """The path as one word for sh, in which a leading ~ still means the home directory."""
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + shlex.quote(path[1:]) if len(path) > 1 else '"$HOME"'
    return shlex.quote(path)
