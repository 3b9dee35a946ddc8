"""Leases decide which job may use this host's GPUs. The host keeps them itself, one exclusively created file each.

A lease is valid while a process that supervises its job lives, and otherwise until it expires. Times come from the
clock that counts from boot and cannot be set, so leases are right even if the host's date is wrong. Leftover processes
of a dead job are killed before its lease goes to another job.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import processes

if TYPE_CHECKING:
    from .protocol import Busy, HeldLease, Lease, LeaseRequest, LeasesReply, LeasesRequest, ListedLease, ProcessId

MAX_BYTES = 1 << 20
"""Size limit for reading a lease file, in bytes."""
FIELDS = {"id", "mark", "job", "owner", "step", "gpus", "unlimited", "processes", "boot", "expires"}
"""The fields of a `Lease`."""
DRAIN = "drain.json"
"""The file in the host's root that keeps new jobs away."""


def now() -> float:
    """Seconds since boot, including sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@contextmanager
def locked(root: Path) -> Generator[None]:
    """Lets one command at a time read and change this host's leases; the kernel frees the lock if the command dies."""
    with (root / "lock").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def acquire(root: Path, request: LeaseRequest) -> Lease | Busy:
    """A lease for the job, which may already hold one, or the reason why there is none. Call it under the lock.

    The job needs `gpus` of the host's `host_gpus`; at most `max_leases` are valid at a time (None: any number).
    """
    held = current(root)
    mine = next((lease for lease in held if lease["id"] == request["id"]), None)
    if mine:
        return mine
    if reason := drained(root):
        return {"busy": f"it takes no more jobs: {reason}", "held": _brief(held)}
    counted = [lease for lease in held if not lease["unlimited"]]
    limit = request["max_leases"]
    if limit is not None and len(counted) >= limit:
        users = ", ".join(f"{lease['step']} of run {lease['owner'][:8]}" for lease in counted)
        return {"busy": f"in use by {users}", "held": _brief(held)}
    taken = {gpu for lease in held for gpu in lease["gpus"]}
    free = [gpu for gpu in range(request["host_gpus"]) if gpu not in taken]
    if len(free) < request["gpus"]:
        why = f"{len(free)} of {request['host_gpus']} GPUs free, {request['gpus']} needed"
        return {"busy": why, "held": _brief(held)}
    lease: Lease = {
        "id": request["id"],
        "mark": request["mark"],
        "job": request["job"],
        "owner": request["owner"],
        "step": request["step"],
        "gpus": free[: request["gpus"]],
        "unlimited": limit is None,
        "processes": [],
        "boot": processes.boot_id(),
        "expires": now() + request["ttl"],
    }
    _write(root, lease)
    return lease


def _brief(held: list[Lease]) -> list[HeldLease]:
    return [{"mark": one["mark"], "gpus": len(one["gpus"]), "counts": not one["unlimited"]} for one in held]


def hold(root: Path, lease: Lease, pids: list[int], ttl: float) -> None:
    """Renews the lease for `ttl` seconds; the processes `pids` hold it."""
    _write(root, {**lease, "processes": [processes.identity(pid) for pid in pids], "expires": now() + ttl})


def drop(root: Path, lease_id: str) -> bool:
    """Releases the lease; returns False if there was none."""
    try:
        _path(root, lease_id).unlink()
    except FileNotFoundError:
        return False
    return True


def current(root: Path) -> list[Lease]:
    """The valid leases. Removes the others and kills their jobs' processes. Call it under the lock."""
    held: list[Lease] = []
    for path in sorted((root / "leases").glob("*.json")):
        lease = _read(root, path)
        if _holds(lease):
            held.append(lease)
            continue
        survivors = processes.kill_job_processes(lease["mark"])
        if survivors:
            held.append({**lease, "step": f"{lease['step']} (processes {survivors} cannot be killed)"})
        else:
            path.unlink(missing_ok=True)
    return held


def valid(root: Path) -> list[Lease]:
    """The valid leases, by a look without the lock that changes nothing."""
    found = [_read(root, path) for path in sorted((root / "leases").glob("*.json"))]
    return [lease for lease in found if _holds(lease)]


def exists(root: Path, lease_id: str) -> bool:
    """Whether the job has a lease, even an invalid one."""
    return _path(root, lease_id).exists()


def drained(root: Path) -> str | None:
    """Why this host takes no more jobs, or None if it takes them."""
    try:
        reason: object = json.loads((root / DRAIN).read_bytes()[:MAX_BYTES])["reason"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        reason = None
    return reason if isinstance(reason, str) and reason else "it is drained"


def set_drained(root: Path, reason: str | None) -> None:
    """From now on the host takes no more jobs, also after a restart; with None it takes them. Call it under the
    lock."""
    if reason is None:
        (root / DRAIN).unlink(missing_ok=True)
    else:
        processes.write_durably(root / DRAIN, {"reason": reason})


def listing(root: Path, _: LeasesRequest) -> LeasesReply:
    """All valid leases, each with the seconds until it expires without renewal."""
    with locked(root):
        held = current(root)
    return {"leases": listed(held)}


def listed(held: list[Lease]) -> list[ListedLease]:
    """The leases, each with the seconds until it expires without renewal."""
    return [{**lease, "seconds_left": round(lease["expires"] - now(), 1)} for lease in held]


def _read(root: Path, path: Path) -> Lease:
    """Reads a lease file. If it is unreadable, as after a power cut, rebuilds the lease from the job's directory.

    A rebuilt lease is valid only while the job's supervisor lives, and its `step` names the file.
    """
    with suppress(FileNotFoundError, ValueError, RecursionError):
        lease = _fields(json.loads(path.read_bytes()[:MAX_BYTES]))
        if lease.keys() >= FIELDS and _is_typed(lease):
            return cast("Lease", lease)
    who: dict[str, Any] = {}
    with suppress(OSError, ValueError, RecursionError):
        who = _fields(json.loads((root / "jobs" / path.stem / "supervisor.json").read_text()))
    return {
        "id": path.stem,
        "mark": who.get("mark", f"unreadable {path}"),
        "job": who.get("job", ""),
        "owner": "unknown",
        "step": f"a lease that cannot be read ({path})",
        "gpus": [],
        "unlimited": False,
        "processes": [cast("ProcessId", who)],
        "boot": who.get("boot", ""),
        "expires": 0.0,
    }


def _fields(value: object) -> dict[str, Any]:
    """The fields of a JSON object, or an empty dictionary for any other value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _is_typed(lease: dict[str, Any]) -> bool:
    """Whether the required fields have the right types."""
    texts = all(isinstance(lease[name], str) for name in ("id", "mark", "job", "owner", "step", "boot"))
    gpus: object = lease["gpus"]
    held: object = lease["processes"]
    end: object = lease["expires"]
    return (
        texts
        and isinstance(gpus, list)
        and all(type(gpu) is int for gpu in cast("list[object]", gpus))
        and isinstance(held, list)
        and all(isinstance(process, dict) for process in cast("list[object]", held))
        and type(end) in (int, float)
        and end == end
    )


def read(root: Path, lease_id: str) -> Lease | None:
    """The job's lease, even if invalid, or None."""
    path = _path(root, lease_id)
    return _read(root, path) if path.exists() else None


def _holds(lease: Lease) -> bool:
    if lease["boot"] != processes.boot_id():
        return False
    return any(processes.is_alive(p) for p in lease["processes"]) or now() < lease["expires"]


def _write(root: Path, lease: Lease) -> None:
    path = _path(root, lease["id"])
    path.parent.mkdir(exist_ok=True)
    processes.write_durably(path, lease)


def _path(root: Path, lease_id: str) -> Path:
    return root / "leases" / f"{lease_id}.json"
