"""The inventory: the available hosts, from `dagster_home/hosts.yaml` and from the records of what is rented now.

Without hosts.yaml, this machine takes its place, with the GPUs that its driver reports. Both are read again for every
search, so that a waiting run finds a host that was added meanwhile.
"""

from __future__ import annotations

import functools
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from aquarat_core.agent.machine import driver_gpus
from aquarat_core.config import strict_yaml
from aquarat_pipeline.hosts import rentals
from aquarat_pipeline.hosts.host import LOCAL, Host, InventoryError, problems_of

FILE = "hosts.yaml"
__all__ = ["FILE", "Host", "Inventory", "InventoryError", "local_host", "read_inventory", "this_machine"]


class _Listed(BaseModel):
    """The content of hosts.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    hosts: tuple[Host, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """All hosts, by unique names: those of hosts.yaml, or this machine without it; then the rented ones."""

    hosts: tuple[Host, ...]
    left_out: tuple[str, ...] = ()
    """Which rentals could not be used, and why."""

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
    """The hosts in `home`/hosts.yaml, or only this machine; and the rented ones. A broken rental is left out."""
    listed = _listed(home)
    rented = rentals.read(home, taken={host.name for host in listed})
    return Inventory((*listed, *rented.hosts), rented.problems)


_KNOWN: dict[Path, tuple[tuple[int, int, int], tuple[Host, ...]]] = {}
"""The hosts of each hosts.yaml that was read, with inode, time and size of the file: a thousand take half a second."""
_RECENT_NS = 50_000_000
"""A file that was written this shortly before may be written again with the same time."""


def _listed(home: Path) -> tuple[Host, ...]:
    path = home / FILE
    with suppress(OSError):
        stat = path.stat()
        signature = stat.st_ino, stat.st_mtime_ns, stat.st_size
        if path in _KNOWN and _KNOWN[path][0] == signature:
            return _KNOWN[path][1]
        hosts = _parsed(home, path)
        if time.time_ns() - stat.st_mtime_ns > _RECENT_NS:
            _KNOWN[path] = signature, hosts
        return hosts
    return _parsed(home, path)


def _parsed(home: Path, path: Path) -> tuple[Host, ...]:
    try:
        given = strict_yaml.load(path)
    except FileNotFoundError:
        return (this_machine(home),)
    except strict_yaml.YamlError as e:
        raise InventoryError(str(e)) from None
    except OSError as e:
        raise InventoryError(f"{path} cannot be read: {e}") from None
    try:
        hosts = _Listed.model_validate(given or {}).hosts
    except ValidationError as e:
        raise InventoryError(f"{path}: {problems_of(e, 'the file')}") from None
    names = [host.name for host in hosts]
    if not names or len(set(names)) < len(names):
        raise InventoryError(f"{path}: {'it names no host' if not names else 'two hosts have the same name'}")
    return hosts
