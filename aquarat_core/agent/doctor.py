"""Examines whether a host is ready for training: facts for a table, and problems as sentences."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from . import leases, machine, switch
from .folder import open_folder

if TYPE_CHECKING:
    from .protocol import DoctorReply, DoctorRequest, Fact

MAX_CLOCK_SECONDS = 60.0
STORE = "https://storage.googleapis.com"
DOWNLOAD_SECONDS = 10.0
"""How long reading from the store is measured at most."""

PROBE = (
    "import json, torch; print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda,"
    " 'gpus': torch.cuda.device_count(),"
    " 'nccl': '.'.join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None}))"
)


def examine(root: Path, request: DoctorRequest) -> DoctorReply:
    """Facts about GPUs, driver, torch, NCCL, disk, clock and network, and what is wrong with them."""
    facts: dict[str, Fact] = {"host": socket.gethostname(), "python": sys.version.split()[0]}
    problems: list[str] = []
    # First, because the other side read its clock just before it sent this request.
    _clock(facts, problems, request)
    _gpus(facts, problems, request)
    _torch(facts, problems, request)
    usage = shutil.disk_usage(root)
    facts["disk_free_gb"] = round(usage.free / 1e9, 1)
    if usage.free < request["min_free_bytes"]:
        problems.append(f"only {facts['disk_free_gb']} GB free on {root}: free some, or name another root")
    facts["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    facts["cores"] = len(os.sched_getaffinity(0))
    _store(facts, problems, request)
    _download(facts, problems, request)
    if reason := leases.drained(root):
        facts["drained"] = reason
    if state := switch.state(root):
        facts["switch"] = state
    _meeting(facts, problems, request)
    return {"facts": facts, "problems": problems}


def _meeting(facts: dict[str, Fact], problems: list[str], request: DoctorRequest) -> None:
    """Checks that hosts of one job could meet here, at `request["meeting"]`, and that the address is private."""
    meeting = request.get("meeting")
    if not meeting:
        return
    address, port = meeting
    facts["meets_at"] = f"{address}:{port}"
    try:
        family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    except OSError as e:
        problems.append(f"network_address {address} is unknown here ({e}): write the address in the private network")
        return
    try:
        with socket.socket(family, kind) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(where)
    except OSError as e:
        # The port is in use by a job on several hosts that is training now.
        if e.errno != errno.EADDRINUSE:
            problems.append(f"network_address {address} is not an address of this host ({e}): write one that it has")
    found = ipaddress.ip_address(where[0])
    if found.is_unspecified or found.is_global:
        problems.append(
            f"jobs on several hosts would listen at {address}, which others can reach: give the hosts a private "
            "network (a VPC, WireGuard) and write this host's address there as network_address"
        )


def _gpus(facts: dict[str, Fact], problems: list[str], request: DoctorRequest) -> None:
    rows, wrong = machine.driver_gpus()
    if wrong:
        problems.append(wrong)
    facts["gpus"] = len(rows)
    if rows:
        facts["gpu"], facts["driver"], facts["gpu_memory"] = rows[0]
    if len(rows) < request["gpus"]:
        problems.append(f"the inventory promises {request['gpus']} GPUs, the driver shows {len(rows)}")


def _torch(facts: dict[str, Fact], problems: list[str], request: DoctorRequest) -> None:
    if not request["interpreter"]:
        return
    python = os.path.expanduser(request["interpreter"])
    if not os.path.exists(python):
        problems.append(f"there is no {python}: run `aquarat hosts prepare {request['name']}`")
        return
    try:
        out = subprocess.run([python, "-c", PROBE], capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        problems.append(f"{python} does not import torch within 120 s")
        return
    if out.returncode:
        problems.append(f"{python} cannot import torch: {out.stderr.decode(errors='replace').strip()[-200:]}")
        return
    found = json.loads(out.stdout)
    facts.update(torch=found["torch"], cuda=found["cuda"], nccl=found["nccl"])
    if found["gpus"] < request["gpus"]:
        problems.append(
            f"torch sees {found['gpus']} of {request['gpus']} GPUs: its CUDA {found['cuda']} and the driver differ"
        )


def _clock(facts: dict[str, Fact], problems: list[str], request: DoctorRequest) -> None:
    off = time.time() - request["time"]
    facts["clock_off_s"] = round(off, 1)
    if abs(off) > MAX_CLOCK_SECONDS:
        problems.append(
            f"its clock is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}: signed requests to a bucket may be "
            "refused and logs mislead; set it (leases and heartbeats do not depend on it)"
        )


def _store(facts: dict[str, Fact], problems: list[str], request: DoctorRequest) -> None:
    uri = request["store"]
    if uri.startswith("file://"):
        path = Path(uri[7:])
        while request["here"] and not path.exists():
            path = path.parent  # on this machine the first publication makes it
        facts["store"] = "mounted" if os.access(path, os.W_OK) else "absent"
        if facts["store"] == "absent":
            problems.append(f"the store {path} is not a writable directory here: mount it or use a bucket")
        return
    server = os.environ.get("STORAGE_EMULATOR_HOST") or STORE
    began = time.monotonic()
    try:
        with urllib.request.urlopen(server, timeout=10) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as e:
        date = e.headers.get("Date")
    except OSError as e:
        facts["store"] = "unreachable"
        problems.append(f"{server} cannot be reached: {e}")
        return
    facts["store"] = f"{(time.monotonic() - began) * 1000:.0f} ms"
    if date:
        facts["store_clock_off_s"] = round(time.time() - parsedate_to_datetime(date).timestamp(), 1)


def _download(facts: dict[str, Fact], problems: list[str], request: DoctorRequest) -> None:
    """Measures how fast the host reads from the store, for a few seconds at most."""
    asked = request.get("download")
    if not asked:
        return
    token = asked["token"]
    folder = open_folder(asked["folder"], lambda: token["token"] if token else None)
    read = 0
    began = time.monotonic()
    try:
        for chunk in folder.chunks(asked["name"]):
            read += len(chunk)
            if time.monotonic() - began > DOWNLOAD_SECONDS:
                break
    except OSError as e:
        problems.append(f"{asked['folder']} cannot be read: {e}")
        return
    rate = read / 1e6 / (time.monotonic() - began)
    facts["download_mb_s"] = round(rate, 1)
    if rate < asked["min_mb_s"]:
        problems.append(f"it reads {rate:.1f} MB/s from the store, and {asked['min_mb_s']:g} MB/s are needed")
