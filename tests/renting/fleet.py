"""Instances of the fake clouds that are real: each a host with sshd, a host key, an account and a home of its own.

What an instance is like apart from its order, such as its NVIDIA driver, is played by scripts in front of its PATH
(`Guest`). `NetworkFleet` makes network namespaces; `LoopbackFleet` is cheaper, with one sshd for each on this machine.
Both need root.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.launching.network import Keys, Login, Network, Sshd, answers
from tests.patience import wait_until
from tests.renting import cloud_init
from tests.renting.fakes.machines import Address, Machine

USER = "ubuntu"
GPUS = {
    "gpu_1x_a10": ("NVIDIA A10", 23028),
    "gpu_1x_rtx6000": ("Quadro RTX 6000", 24576),
    "gpu_8x_h100_sxm5": ("NVIDIA H100 80GB HBM3", 81559),
    "g2-standard-4": ("NVIDIA L4", 23034),
}
"""What nvidia-smi says of an offer's GPU: its name, and MiB of memory."""
POWER = ("sudo", "systemctl", "poweroff", "shutdown", "reboot", "halt")
"""Never this machine's own: a host that powers itself off must not take the tests along."""


@dataclass(frozen=True)
class Guest:
    """What an instance is like, apart from its order."""

    driver: str | None = "580.95.05"
    python: str = sys.executable
    programs: Mapping[str, str] = field(default_factory=dict)
    """Shell scripts by name, which replace programs of the host."""
    env: Mapping[str, str] = field(default_factory=dict)
    """At every login."""
    heeds_user_data: bool = True
    """False: it shows a host key that nobody ordered."""
    used_address: bool = False
    """It gets the address of the instance that went last."""


@dataclass
class Instance:
    """A machine that is up."""

    machine: Machine
    folder: Path
    guest: Guest
    number: int
    address: str

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def power(self) -> list[str]:
        """How it was asked to power off."""
        log = self.folder / "power"
        return log.read_text().splitlines() if log.exists() else []


class Instances:
    """What both kinds of fleets share: who is up, and what an instance is made of."""

    def __init__(self, folder: Path, guest: Guest | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.usual = guest or Guest()
        self.next: deque[Guest] = deque()
        """What the coming instances are like; after them, each is as usual."""
        self.up: dict[str, Instance] = {}
        """By the machine's id."""
        self.all: list[Instance] = []
        self.complaints: list[str] = []
        """What is wrong with user data. The test should fail."""
        self._free: list[str] = []
        self._lock = threading.RLock()
        self._programs = folder / "programs"
        self._programs.mkdir()
        for path in Path("/usr/bin").iterdir():
            if not path.name.startswith(("python", "pip", "nvidia", "uv")) and path.name not in POWER:
                (self._programs / path.name).symlink_to(path)

    def boot(self, machine: Machine) -> Address:
        """The address of a new host, which is up."""
        with self._lock:
            guest = self.next.popleft() if self.next else self.usual
            folder = self.folder / f"i{len(self.all)}"
            (folder / "home").mkdir(parents=True)
            login = Login(folder, self._host_key(machine, guest, folder), machine.authorized, USER, folder / "home")
            used = self._free.pop() if guest.used_address else None
            number, address = self._start(login, self._environment(machine, guest, folder), used)
            made = Instance(machine, folder, guest, number, address)
            self.up[machine.id] = made
            self.all.append(made)
            return Address(address, 22, USER, address)

    def stop(self, machine: Machine) -> None:
        """Everything on the host ends at once."""
        with self._lock:
            if instance := self.up.pop(machine.id, None):
                self._end(instance)
                self._free.append(instance.address)

    def _start(self, login: Login, env: dict[str, str], used: str | None) -> tuple[int, str]:
        """The number and the address of a new host, in place of `used` if given."""
        raise NotImplementedError

    def _end(self, instance: Instance) -> None:
        raise NotImplementedError

    def _host_key(self, machine: Machine, guest: Guest, folder: Path) -> Path:
        """As cloud-init gives it to the host, which otherwise makes one."""
        if machine.user_data is not None:
            try:
                keys = cloud_init.parse(machine.user_data).host_keys
                paths = [key.write(folder) for key in keys]
            except cloud_init.UserDataError as e:
                self.complaints.append(f"{machine.name}: {e}")
                paths = []
            if paths and guest.heeds_user_data:
                return paths[0]
        path = folder / "own_host"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        return path

    def _environment(self, machine: Machine, guest: Guest, folder: Path) -> dict[str, str]:
        """Of every login. Programs are this machine's, but for those that are played."""
        own = folder / "bin"
        own.mkdir()
        played = {name: f'echo "{name} $*" >>{shlex.quote(str(folder / "power"))}' for name in POWER}
        played["python3"] = f'exec {guest.python} "$@"'
        if guest.driver and machine.gpus:
            name, memory = GPUS.get(machine.type, GPUS["gpu_1x_a10"])
            played["nvidia-smi"] = "\n".join([f"echo '{name}, {guest.driver}, {memory} MiB'"] * machine.gpus)
        for name, text in {**played, **guest.programs}.items():
            (own / name).write_text(f"#!/bin/sh\n{text}\n")
            (own / name).chmod(0o755)
        return {"PATH": f"{own}:{self._programs}", **guest.env}


class NetworkFleet(Instances):
    """Hosts of a `Network`, with addresses of their own and the bucket in reach."""

    def __init__(self, network: Network, guest: Guest | None = None) -> None:
        super().__init__(network.directory / "fleet", guest)
        self.network = network

    def _start(self, login: Login, env: dict[str, str], used: str | None) -> tuple[int, str]:
        number = self.network.add(env, login, used)
        return number, self.network.address(number)

    def _end(self, instance: Instance) -> None:
        self.network.remove(instance.number)


class LoopbackFleet(Instances):
    """Hosts on this machine's network: port 22 of an address of 127.0.0.0/8 each, and processes of their own."""

    def __init__(self, folder: Path, guest: Guest | None = None) -> None:
        super().__init__(folder, guest)
        self._keys = Keys(folder / "keys")
        self._servers: list[Sshd] = []

    def close(self) -> None:
        for instance in [*self.up.values()]:
            self.stop(instance.machine)

    def _start(self, login: Login, env: dict[str, str], used: str | None) -> tuple[int, str]:
        number = len(self._servers)
        address = used or f"127.{1 + os.getpid() // 250 % 250}.{1 + os.getpid() % 250}.{1 + number}"
        # The host's first process takes all others along when it is killed.
        prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._servers.append(Sshd(self._keys, address, 22, env, login=login, prefix=prefix))
        return number, address

    def _end(self, instance: Instance) -> None:
        process = self._servers[instance.number].process
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not answers(instance.address, 22), 20, f"{instance.address} is silent")
