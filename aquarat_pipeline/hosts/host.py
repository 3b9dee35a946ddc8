"""A host: a machine that stages may run on, its resources, and how `ssh` reaches it."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from aquarat_core.errors import UserError

LOCAL = "local"
MAX_TIME = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


class InventoryError(UserError):
    """A hosts.yaml that cannot be used; the message says where and why."""


def problems_of(error: ValidationError, whole: str) -> str:
    """What is wrong with an entry, by its fields, in one line; `whole` stands for all of it."""
    return "; ".join(f"{'.'.join(map(str, p['loc'])) or whole}: {p['msg']}" for p in error.errors())


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
    site: str = ""
    """Where it is. All hosts of a job are of one site, because others may not reach each other."""
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

    @property
    def ssh_options(self) -> dict[str, str]:
        """Options of `ssh` for this host, beyond those for every host."""
        return {}

    @property
    def connection(self) -> str:
        """File name of the socket of the shared connection; `ssh` replaces %C by a hash of address, port and user."""
        return "%C"

    def why_no_job(self, now: float, *, several: bool = False) -> str | None:
        """Why no job may start there at the time `now` (seconds since 1970), or None if one may; `several`: a job on
        several hosts."""
        return None


class RentedHost(Host):
    """A host that is rented until `expires`; its record is written by the program and not by people.

    Unlike an entry of hosts.yaml it names port, user, key and host key itself, so that `~/.ssh/config` need not know
    it. A field that this version does not know is ignored, because a worker may be older than the record.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    version: Literal[1] = 1
    folder: Path = Field(exclude=True)
    """The rental's folder, whose name identifies the rental; it holds the record and `known_hosts`."""
    # Narrower than in `Host`; pyright does not know that neither can be assigned.
    transport: Literal["ssh"] = "ssh"  # pyright: ignore[reportIncompatibleVariableOverride]
    address: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")  # pyright: ignore[reportIncompatibleVariableOverride]
    """IP address or name, without the user."""
    user: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")
    port: Annotated[int, Field(gt=0, lt=65536)] = 22
    identity: str = "../id_ed25519"
    """The private key for it, relative to `folder`."""
    known_hosts: str = "known_hosts"
    """The file with its host key, under the name `alias`; relative to `folder`."""
    alias: str | None = None
    """The name of its host key in `known_hosts`; the default is the rental."""
    expires: Annotated[float, Field(gt=0, lt=MAX_TIME)]
    """End of life, in seconds since 1970."""
    margin_seconds: Annotated[float, Field(ge=0)] = 1800.0
    """No job starts when less of its life is left than this."""
    gpu_memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of each GPU as it was offered, in GB (10^9 bytes)."""

    @property
    def rental(self) -> str:
        """Identifies the rental; never used for another one."""
        return self.folder.name

    @property
    def ssh_options(self) -> dict[str, str]:
        """Only the key and the host key of this rental, whatever `~/.ssh/config` says of other hosts."""
        return {
            "User": self.user,
            "Port": str(self.port),
            "IdentityFile": _quoted(self.folder / self.identity),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "HostKeyAlias": self.alias or self.rental,
            "UserKnownHostsFile": _quoted(self.folder / self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "CheckHostIP": "no",
            "UpdateHostKeys": "no",
            "VerifyHostKeyDNS": "no",
            "ClearAllForwardings": "yes",
        }

    @property
    def connection(self) -> str:
        """Differs between two rentals with the same address, because addresses are used again."""
        told = f"{self.folder}\0{self.address}\0{self.port}\0{self.user}"
        return f"rental-{hashlib.sha256(told.encode()).hexdigest()[:24]}"

    def why_no_job(self, now: float, *, several: bool = False) -> str | None:
        """Whether its life is over, or too little of it is left. Its address is one that anybody can reach, so that it
        meets others only if it has a private one too."""
        if several and not self.network_address:
            return "it has no private address at which the other hosts could reach it"
        left = self.expires - now
        if left >= self.margin_seconds:
            return None
        end = f"{datetime.fromtimestamp(self.expires, UTC):%Y-%m-%d %H:%M} UTC"
        return f"its rental ended at {end}" if left <= 0 else f"its rental ends at {end}, too soon for another job"


def _quoted(path: Path) -> str:
    """The absolute path as one word of ssh's configuration, in which a percent sign stands for itself."""
    text = os.path.abspath(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"'
