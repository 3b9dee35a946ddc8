"""How the control host calls a host's agent: here as a process, elsewhere through the OpenSSH client.

One call is one command: a JSON object in, one out. What is secret is in the object, so it passes through standard
input alone. The OpenSSH client brings the user's configuration, agent, jump hosts and host keys with it; the checks of
host keys are never relaxed. Calls share one connection per host (ControlMaster), which ends soon after the last.
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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from aquarat_core.artifacts.files import atomic_write
from aquarat_pipeline.hosts.bundle import agent
from aquarat_pipeline.hosts.inventory import Host

CALL_SECONDS = 60.0
NO_AGENT = 111


class HostError(OSError):
    """A host that could not be reached, or whose agent failed; worth another try."""


class Transport(Protocol):
    """The way to one host."""

    def call(self, command: str, request: Mapping[str, object], seconds: float = CALL_SECONDS) -> dict[str, Any]:
        """The agent's reply. Raises `HostError` where there is none, or where it is an error.

        `HostAgent` has a method for each command.
        """
        ...


def transport_to(host: Host) -> Transport:
    """The transport that the inventory names for `host`."""
    return LocalTransport(host) if host.transport == "local" else SshTransport(host)


class LocalTransport:
    """This machine: the agent is a child process that leaves the supervisor behind."""

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
    """A host reached with the `ssh` of this machine."""

    CONNECT_SECONDS = 10
    PERSIST_SECONDS = 15
    """For how long the connection waits for another call; a step that waits for a host calls every two seconds."""

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
        """Writes `data` to `path` on the host, whole or not at all: it is put in place when its hash is right."""
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
        """Runs a script of ours in the host's sh. Raises `HostError` where the host cannot be reached."""
        argv = ["ssh", *self._options(), "--", str(self._host.address), f"sh -c {shlex.quote(script)}"]
        try:
            done = subprocess.run(argv, input=given, capture_output=True, timeout=seconds, start_new_session=True)
        except FileNotFoundError:
            raise HostError("there is no ssh here: install the OpenSSH client (Debian: openssh-client)") from None
        except subprocess.TimeoutExpired:
            raise HostError(
                f"{self._host.name} ({self._host.address}) does not answer within {seconds:.0f} s"
            ) from None
        if done.returncode == 255:
            raise HostError(f"{self._host.name} ({self._host.address}) cannot be reached: {_reason(done)}")
        return done

    def close(self) -> None:
        """Ends the shared connection now, if there is one, and the calls that others have on it."""
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
            "ControlPath": f"{_socket_directory()}/%C",
            "ControlPersist": str(self.PERSIST_SECONDS),
            "ForwardAgent": "no",
            "LogLevel": "ERROR",
        }
        configured = os.environ.get("AQUARAT_SSH_CONFIG")
        return [*(["-F", configured] if configured else []), *(f"-o{k}={v}" for k, v in options.items())]


def _reply(host: Host, done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    out = done.stdout.decode(errors="replace")
    try:
        reply = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        raise HostError(f"the agent on {host.name} ended with {done.returncode}: {_reason(done)}") from None
    if "error" in reply:
        trace = f"\n{reply['traceback']}" if "traceback" in reply else ""
        raise HostError(f"the agent on {host.name}: {reply['error']}{trace}")
    return reply


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    err = done.stderr.decode(errors="replace")
    return " ".join(err.split())[-400:] or "it said nothing"


def _socket_directory() -> str:
    """A directory of this user's own for the connections' sockets, whose paths must stay short."""
    directory = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"aquarat-ssh-{os.getuid()}"
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()  # lstat: a link that somebody else made is not followed.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HostError(
            f"{directory} is not a directory that you own and only you can enter, as the sockets of ssh connections "
            "need it: find out who made it, and remove it"
        )
    return str(directory)


def shell_path(path: str) -> str:
    """The path as one word for sh, in which a leading ~ still means the home directory."""
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + shlex.quote(path[1:]) if len(path) > 1 else '"$HOME"'
    return shlex.quote(path)
