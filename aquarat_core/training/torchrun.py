"""torchrun with a meeting place of our own: `python -m aquarat_core.training.torchrun OPTIONS PROGRAM`.

torchrun's own ways for processes to find each other, `--standalone` and the backend `c10d`, listen on every address of
the host, ask for no password, and unpickle what lies there: whoever reaches the port runs code in the job. The two
backends here do neither. On one host the processes meet in files of a folder that only this user may enter, and no port
is opened. On several hosts the first one listens at one given address, and what is read there is never unpickled; but
whoever reaches that address can still disturb the job, so that the network between the hosts must be private.

Everything else is torchrun's own: options, logs, signals and exit codes.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store
    from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousParameters

MEETING = "AQUARAT_MEETING"
"""The folder in which the ranks of one host meet; they find it in their environment."""
ADDRESS = "AQUARAT_NETWORK_ADDRESS"
"""This host's address in the network between the hosts of a job on several."""
FILES, _PORT = "private-files", "private-port"
_TIMEOUT = timedelta(minutes=10)
_LOOPBACK = "127.0.0.1"


class MeetingError(ValueError):
    """A meeting place that is not private, or that this host does not have."""


def on_one_host(ranks: int, folder: str) -> list[str]:
    """The arguments of Python that start `ranks` processes, which meet in `folder`; options and program follow."""
    return [*_torchrun(ranks), "--rdzv-backend", FILES, "--rdzv-endpoint", folder]


def on_several_hosts(ranks: int, nodes: int, node: int, endpoint: str, job: str) -> list[str]:
    """The same for `ranks` processes on each of `nodes` hosts; the first one listens at `endpoint`, address:port."""
    return [
        *_torchrun(ranks), "--nnodes", str(nodes), "--rdzv-backend", _PORT, "--rdzv-endpoint", endpoint,
        "--rdzv-id", job, "--rdzv-conf", f"node={node}",
    ]  # fmt: skip


def _torchrun(ranks: int) -> list[str]:
    return ["-m", "aquarat_core.training.torchrun", "--nproc-per-node", str(ranks)]


def ranks_store(size: int) -> Store | None:
    """The store of this host's `size` ranks, None where they were started by torchrun's own means."""
    from torch.distributed import FileStore

    folder = os.environ.get(MEETING)
    if not folder:
        return None
    return FileStore(str(_private(Path(folder)) / f"ranks-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"), size)


def interface_of(address: str) -> str | None:
    """The network interface of this host that has the IPv4 `address`, None if none has."""
    import fcntl
    import struct

    wanted = socket.inet_aton(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
            except OSError:
                continue  # an interface without an IPv4 address
            if answer[20:24] == wanted:
                return name
    return None


def main() -> None:
    """Runs torchrun with the arguments of the command line."""
    from torch.distributed import run

    register()
    _choose_interface()
    run.main()


def register() -> None:
    """Makes both backends known to torchrun in this process."""
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry as backends

    backends.register(FILES, _meet_in_files)
    backends.register(_PORT, _meet_at_port)


def _choose_interface() -> None:
    """Lets gloo and NCCL listen on the job's network alone: the loopback of one host, or what the inventory names."""
    address = os.environ.get(ADDRESS)
    if address is None:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
        return
    if (name := interface_of(socket.gethostbyname(address))) is None:
        raise MeetingError(
            f"no network interface of this host has the address {address}: give its address in the hosts' private "
            "network as network_address in hosts.yaml"
        )
    os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _meet_in_files(parameters: RendezvousParameters) -> RendezvousHandler:
    from torch.distributed import FileStore

    folder = Path(parameters.endpoint)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in _private(folder).iterdir():
        left.unlink()
    os.environ[MEETING] = str(folder)
    return _handler(parameters.run_id, FileStore(str(folder / "agent"), 1), 0, 1, (_LOOPBACK, 0), shared=False)


def _meet_at_port(parameters: RendezvousParameters) -> RendezvousHandler:
    from torch.distributed import TCPStore

    address, _, port = parameters.endpoint.rpartition(":")
    node, nodes = int(parameters.config["node"]), parameters.max_nodes
    server = None
    if node == 0:
        try:
            server = socket.create_server((address, int(port)))
        except OSError as e:
            raise MeetingError(
                f"this host cannot listen at {address}:{port} ({e.strerror}): network_address in hosts.yaml must be an "
                "address of the host itself, and rendezvous_port a free port"
            ) from None
    # Given a socket, the store listens there and nowhere else; by itself it would take every address. It closes it.
    store = TCPStore(
        address,
        int(port),
        is_master=node == 0,
        timeout=_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=server.detach() if server else None,
    )
    return _handler(parameters.run_id, store, node, nodes, (address, int(port)), shared=True)


def _handler(
    run_id: str, store: Store, node: int, nodes: int, place: tuple[str, int], shared: bool
) -> RendezvousHandler:
    """What torchrun asks about the meeting: `nodes` hosts, known beforehand, of which this is number `node`.

    `shared`: the ranks use the same store, which they find at `place`.
    """
    from torch.distributed import PrefixStore
    from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo
    from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo

    class Handler(RendezvousHandler):
        use_agent_store = shared  # type: ignore[assignment]

        def get_backend(self) -> str:
            return _PORT if shared else FILES

        def next_rendezvous(self) -> RendezvousInfo:
            return RendezvousInfo(PrefixStore(run_id, store), node, nodes, RendezvousStoreInfo(*place))

        def is_closed(self) -> bool:
            return False

        def set_closed(self) -> None:
            pass

        def num_nodes_waiting(self) -> int:
            return 0

        def get_run_id(self) -> str:
            return run_id

        def shutdown(self) -> bool:
            return True

    return Handler()


def _private(folder: Path) -> Path:
    """The folder, if it is this user's own and no other user may enter it."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise MeetingError(f"{folder} is not a folder that only this user may enter: the ranks would not meet alone")
    return folder


if __name__ == "__main__":
    try:
        main()
    except MeetingError as e:
        print(f"torchrun: {e}", file=sys.stderr, flush=True)
        sys.exit(2)
