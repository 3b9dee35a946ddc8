"""How the ranks of a stage meet under torchrun, without open ports; `python -m aquarat_core.torchrun` starts it.

torchrun's own rendezvous, and the store through which the ranks then find each other, listen on every network
interface, ask for no password, and (with `c10d`) unpickle data that others write there. The rendezvous here

- on one host needs no port: torchrun keeps its state in memory, and the ranks meet in a file of a folder that only
  this user can enter (`AQUARAT_RANKS`);
- on several hosts (`--nnodes N --rdzv-endpoint ADDRESS:PORT --rdzv-conf rank=K --local-addr ADDRESS`) listens on that
  one address of the first host. Nothing it receives is unpickled. There is no password, so the network must be
  private.

Gloo and NCCL connect the ranks over the loopback interface, or over the interface that carries this host's address.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import timedelta

# torch documents these names in this module, but does not export them for type checkers.
from torch.distributed import (
    FileStore,  # pyright: ignore[reportPrivateImportUsage]
    HashStore,  # pyright: ignore[reportPrivateImportUsage]
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    Store,  # pyright: ignore[reportPrivateImportUsage]
    TCPStore,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from aquarat_core.errors import UserError
from aquarat_core.runtime.scratch import scratch_folder

BACKEND = "aquarat"
RANKS = "AQUARAT_RANKS"
"""Names the file in which the ranks of a single-host job meet."""
JOIN_SECONDS = 600
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_SIOCGIFADDR = 0x8915


class RendezvousError(UserError):
    """An address that this host does not have, or a port that is taken; the message says what to change."""


class Rendezvous(RendezvousHandler):
    """Connects the torchrun agents of a fixed set of hosts; the control host has chosen their ranks and meeting
    point."""

    def __init__(self, params: RendezvousParameters) -> None:
        self._params = params
        self._nodes = params.max_nodes
        self._rank = int(params.get("rank", 0))
        self._store: Store | None = None

    def get_backend(self) -> str:
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """Whether the ranks use the store of the first host's torchrun instead of opening their own."""
        return self._nodes > 1

    def next_rendezvous(self) -> RendezvousInfo:
        if self._nodes == 1:
            # No process listens at this address; the ranks meet in the file named by RANKS.
            self._store, address, port = HashStore(), "127.0.0.1", 0
        else:
            address, port = parse_rendezvous_endpoint(self._params.endpoint.strip(), -1)
            if self._store is None:
                self._store = _tcp_store(address, port, is_first=self._rank == 0)
        store = PrefixStore(self._params.run_id, self._store)
        return RendezvousInfo(store, self._rank, self._nodes, RendezvousStoreInfo(address, port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._params.run_id

    def shutdown(self) -> bool:
        return True


def _tcp_store(address: str, port: int, is_first: bool) -> TCPStore:
    """The store at `address`:`port`; the first host serves it on that address only."""
    listener = _listen(address, port).detach() if is_first else None
    return TCPStore(
        address,
        port,
        is_master=is_first,
        timeout=timedelta(seconds=JOIN_SECONDS),
        wait_for_workers=False,
        master_listen_fd=listener,
    )


def _listen(address: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        made.listen()
    except OSError as e:
        raise RendezvousError(
            f"the job's hosts cannot meet at {address}:{port} of this host ({e}): in hosts.yaml set network_address to "
            "an address that this host has, and rendezvous_port to a free port"
        ) from None
    return made


def interface_of(address: str) -> str:
    """The name of the network interface that has `address`, a host name or IPv4 address. Raises `RendezvousError`."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        wanted = socket.gethostbyname(address)
        for _, name in socket.if_nameindex():
            if wanted.startswith("127.") and name == "lo":
                return name
            with suppress(OSError):
                found = fcntl.ioctl(s.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))[20:24]
                if socket.inet_ntoa(found) == wanted:
                    return name
    raise RendezvousError(
        f"no network interface of this host has the address {address}: in hosts.yaml set network_address to one that "
        "it has, or name its network_interface"
    )


def main(argv: list[str]) -> None:
    """Runs torchrun with this rendezvous; torchrun itself ends the process if a rank fails."""
    from torch.distributed.run import main as torchrun  # pyright: ignore[reportUnknownVariableType]  # untyped

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--rdzv-endpoint")
    parser.add_argument("--local-addr")
    own = argv[: next((i for i, part in enumerate(argv) if part == "-m" or part.endswith(".py")), len(argv))]
    given, _ = parser.parse_known_args(own)
    argv = ["--rdzv-backend", BACKEND, *argv]
    if given.nnodes > 1:
        rendezvous_handler_registry.register(BACKEND, Rendezvous)
        try:
            if not all(name in os.environ for name in INTERFACES):
                name = interface_of(given.local_addr or "")
                for variable in INTERFACES:
                    os.environ.setdefault(variable, name)
            if "rank=0" in own:
                # Reported before torchrun starts, because its traceback would hide it.
                _listen(*parse_rendezvous_endpoint(given.rdzv_endpoint, -1)).close()
        except RendezvousError as e:
            print(f"torchrun: {e}", file=sys.stderr, flush=True)
            sys.exit(2)
        torchrun(argv)
        return
    with one_host():
        torchrun(argv)


@contextmanager
def one_host() -> Generator[None]:
    """An environment in which the ranks of a single-host job meet in a private file, with this rendezvous
    registered."""
    rendezvous_handler_registry.register(BACKEND, Rendezvous)
    for variable in INTERFACES:
        # Overrides a network interface that a cluster sets for all its jobs: on one host no traffic needs to leave it.
        os.environ[variable] = "lo"
    with scratch_folder("ranks") as folder:
        os.environ[RANKS] = str(folder / "store")
        yield


def ranks_store(size: int) -> FileStore | None:
    """The store in which the `size` ranks of a single-host job meet; None if torchrun's own store should be used."""
    path = os.environ.get(RANKS)
    return FileStore(path, size) if path else None
