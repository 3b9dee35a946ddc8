"""The inventory: the available hosts, their resources and how to reach them (`dagster_home/hosts.yaml`).

Without the file, the only host is this machine, with the GPUs that its driver reports. The file is read again for every
search, so that a waiting run finds a host that was added meanwhile.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from aquarat_core.agent.machine import driver_gpus
from aquarat_core.config import strict_yaml
from aquarat_core.errors import UserError

FILE = "hosts.yaml"
LOCAL = "local"


class InventoryError(UserError):
    """A hosts.yaml that cannot be used; the message says where and why."""


class Host(BaseModel):
    """A machine that stages may run on."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    transport: Literal["local", "ssh"] = "ssh"
    address: str | None = None
    """The argument of `ssh`: `user@host` or a Host in `~/.ssh/config`, which defines port, key and jump hosts."""
    network_address: str | None = None
    """The address at which the other hosts of a job reach this one; the default is the host part of `address`."""
    network_interface: str | None = None
    """The interface for traffic between hosts, such as eth0; the default is the one with `network_address`."""
    rendezvous_port: Annotated[int, Field(gt=0, lt=65536)] = 29400
    gpus: Annotated[int, Field(ge=0)] = 0
    gpu_kind: str | None = None
    """The kind of GPU, such as H100, for time estimates."""
    labels: tuple[str, ...] = ()
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """In dollars; among suitable free hosts, the cheapest is used."""
    max_leases: Annotated[int, Field(ge=1)] = 1
    """Maximum number of concurrent jobs; each gets its own GPUs."""
    root: str = "~/.aquarat"
    """Directory on the host for the agent, its leases, environments and jobs."""
    python: str | None = None
    """The Python interpreter with the project; the default is the one from `aquarat hosts prepare`."""
    env: dict[str, str] = {}
    """Further environment variables of the jobs; no secrets, which belong in `forward`."""
    forward: tuple[str, ...] = ()
    """Variables that jobs inherit from the control host, over the connection's standard input: WANDB_API_KEY."""
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 5.0
    lease_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A job that cannot reach the store for this long stops itself; only then may another host take it over."""
    grace_seconds: Annotated[float, Field(ge=0)] = 30.0
    """Seconds between SIGTERM and SIGKILL when a job is stopped; training uses them to save its state."""
    min_free_gb: Annotated[float, Field(ge=0)] = 1.0

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ValueError(f"{name!r} is not a name: letters, digits and _ - . only")
        return name

    def model_post_init(self, _: object) -> None:
        if self.transport == "ssh" and not self.address:
            raise ValueError(f"host {self.name} is reached over ssh but has no address: add `address: user@host`")
        if self.address and self.address.startswith("-"):
            raise ValueError(f"host {self.name}: an address cannot start with a dash")
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"host {self.name}: lease_seconds is {self.lease_seconds:g} but heartbeat_seconds is "
                f"{self.heartbeat_seconds:g}: every job would stop itself between two heartbeats. "
                "Make lease_seconds at least twice heartbeat_seconds"
            )

    @property
    def display_name(self) -> str:
        """Its name in a sentence. Without hosts.yaml, this machine is called `local`."""
        return "this machine" if self.name == LOCAL else self.name

    @property
    def interpreter(self) -> str:
        """The host's Python interpreter with the project."""
        return self.python or (sys.executable if self.transport == "local" else f"{self.root}/env/bin/python")

    @property
    def rendezvous(self) -> str:
        """`address:port` at which the other hosts of a job find the first one."""
        address = self.network_address or (self.address or "127.0.0.1").rpartition("@")[2]
        return f"{address}:{self.rendezvous_port}"


class Inventory(BaseModel):
    """All hosts, by unique names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    hosts: tuple[Host, ...]

    def get(self, name: str) -> Host:
        """The host with that name. Raises `InventoryError` if there is none."""
        found = next((host for host in self.hosts if host.name == name), None)
        if found is None:
            raise InventoryError(f"there is no host {name!r}; there are {', '.join(h.name for h in self.hosts)}")
        return found


def local_host(home: Path) -> Host:
    """This machine, for stages that need no GPU host, and for everything if there is no hosts.yaml."""
    return Host(name=LOCAL, transport="local", root=str(home / "agent"), min_free_gb=0)


def this_machine(home: Path) -> Host:
    """The only host without a hosts.yaml: this machine, with its GPUs."""
    names = _gpus_here(os.environ.get("PATH", ""))
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        named = [part for part in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if part not in ("", "-1")]
        names = names[: len(named)]
    return local_host(home).model_copy(update={"gpus": len(names), "gpu_kind": names[0] if names else None})


@functools.cache
def _gpus_here(path: str) -> tuple[str, ...]:
    """Names of the GPUs that the driver's tool on `path` reports; none if it fails."""
    return tuple(row[0] for row in driver_gpus()[0])


def read_inventory(home: Path) -> Inventory:
    """The hosts in `home`/hosts.yaml, or only this machine."""
    path = home / FILE
    try:
        given = strict_yaml.load(path)
    except FileNotFoundError:
        return Inventory(hosts=(this_machine(home),))
    except strict_yaml.YamlError as e:
        raise InventoryError(str(e)) from None
    except OSError as e:
        raise InventoryError(f"{path} cannot be read: {e}") from None
    try:
        inventory = Inventory.model_validate(given or {})
    except ValidationError as e:
        problems = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'the file'}: {p['msg']}" for p in e.errors())
        raise InventoryError(f"{path}: {problems}") from None
    names = [host.name for host in inventory.hosts]
    if not names or len(set(names)) < len(names):
        raise InventoryError(f"{path}: {'it names no host' if not names else 'two hosts have the same name'}")
    return inventory
