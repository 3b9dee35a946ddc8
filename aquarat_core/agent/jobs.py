"""Starts a job's part on this host exactly once, reports on it, and stops it.

A job is identified by its folder in the store. On the host it has its own directory, `jobs/<id>/`, with the
supervisor's identity, the logs of all ranks and, while it runs, the token for the store.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, cast

from . import leases, logs, processes, supervisor, switch
from .folder import open_folder

if TYPE_CHECKING:
    from .protocol import (
        Claim,
        DrainReply,
        DrainRequest,
        JobRequest,
        LeaseReply,
        LeaseRequest,
        ReleaseReply,
        ReleaseRequest,
        RenewReply,
        RenewRequest,
        StartReply,
        StartRequest,
        StatusReply,
        StopReply,
        SupervisorRecord,
        TailReply,
        TailRequest,
        Token,
    )

KEPT_JOBS = 20
"""Number of ended jobs whose directories stay for `tail`; older ones are removed when another job starts."""


def reserve(root: Path, request: LeaseRequest) -> LeaseReply:
    """Takes a lease ahead of `start`, for a job on several hosts."""
    with leases.locked(root):
        lease = leases.acquire(root, request)
    if "busy" in lease:
        return {"state": "busy", "reason": lease["busy"], "held": lease["held"]}
    return {"state": "reserved"}


def start(root: Path, request: StartRequest) -> StartReply:
    """Takes the lease and the claim and leaves a supervisor behind, unless this job was started before.

    Answers `already-started` if this host started it, `claimed` if another host did.
    """
    directory = root / "jobs" / request["id"]
    with leases.locked(root):
        if directory.exists():
            _write_token(directory, request.get("token"))
            return {"state": "already-started"}
        _sweep(root)
        free = shutil.disk_usage(root).free
        if free < request["min_free_bytes"]:
            return {"state": "full", "reason": f"{free / 1e9:.1f} GB free on {root}"}
        lease = leases.acquire(root, request)
        if "busy" in lease:
            return {"state": "busy", "reason": lease["busy"], "held": lease["held"]}
        try:
            claimed = _claim(request)
            if claimed:
                _remove_old(root)
                directory.mkdir(parents=True)
                _write_token(directory, request.get("token"))
                work = functools.partial(supervisor.supervise, root, directory, request, lease)
                processes.daemonize(work, directory / "supervisor.log")
        except BaseException:
            leases.drop(root, request["id"])
            raise
        if not claimed:
            leases.drop(root, request["id"])
            return {"state": "claimed"}
    return {"state": "started", "gpus": lease["gpus"]}


def renew(root: Path, request: RenewRequest) -> RenewReply:
    """Replaces the job's token."""
    directory = root / "jobs" / request["id"]
    if (directory / "ended").exists() or not directory.exists():
        return {"state": "unknown"}
    _write_token(directory, request.get("token"))
    return {"state": "renewed"}


def status(root: Path, request: JobRequest) -> StatusReply:
    """Reports whether the job's supervisor is running."""
    who = _supervisor(root, request["id"])
    if who is None:
        return {"state": "unknown"}
    return {"state": "running" if processes.is_alive(who) else "gone"}


def stop(root: Path, request: JobRequest) -> StopReply:
    """Asks the supervisor to end the job; if the supervisor is dead, kills the job's processes here."""
    return _stop(root, request["id"], request["mark"])


def _stop(root: Path, job_id: str, mark: str) -> StopReply:
    who = _supervisor(root, job_id)
    if who and processes.is_alive(who):
        os.kill(who["pid"], signal.SIGTERM)
        return {"state": "stopping"}
    with leases.locked(root):
        survivors = processes.kill_job_processes(mark)
        if not survivors:
            leases.drop(root, job_id)
            _sweep(root)
    return {"state": "stopped", "survivors": survivors}


def tail(root: Path, request: TailRequest) -> TailReply:
    """The last lines of each of the job's logs on this host, and of its dead-man's switch."""
    found: dict[str, list[str]] = {}
    for path in [*sorted(logs.logs(root / "jobs" / request["id"])), *root.glob(switch.LOG)]:
        with suppress(FileNotFoundError):
            found[str(path.relative_to(root))] = _last_lines(path, request.get("lines", 40))
    return {"logs": found}


def release(root: Path, request: ReleaseRequest) -> ReleaseReply:
    """Ends the holder of the lease `id` and releases the lease."""
    with leases.locked(root):
        path = root / "leases" / f"{request['id']}.json"
        lease = leases.read(root, request["id"])
        if lease is None:
            return {"state": "unknown"}
    stopped = _stop(root, lease["id"], lease["mark"])
    deadline = time.monotonic() + request.get("seconds", 20)
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return {"state": "held" if path.exists() else "released", "stop": stopped["state"]}


def drain(root: Path, request: DrainRequest) -> DrainReply:
    """Keeps new jobs away, and says what still runs here: once the reply says nothing, nothing can begin anymore.

    With `stop`, it also asks the supervisors to end their jobs, which then continue on other hosts.
    """
    with leases.locked(root):
        leases.set_drained(root, request["reason"])
        held = leases.current(root)
    if request.get("stop"):
        for lease in held:
            _stop(root, lease["id"], lease["mark"])
    return {
        "state": "open" if request["reason"] is None else "drained",
        "leases": leases.listed(held),
        "supervisors": sum(processes.is_alive(_supervisor(root, path.name)) for path in (root / "jobs").glob("*")),
    }


def _claim(request: StartRequest) -> bool:
    token = request.get("token")
    folder = open_folder(request["job"], lambda: token["token"] if token else None)
    claim: Claim = {"host": request["host"], "boot": processes.boot_id()}
    return folder.create(f"claim/node{request['node']}.json", claim)


def _write_token(directory: Path, token: Token | None) -> None:
    """Writes the token with its expiry by this host's own clock, which is the clock that its readers use."""
    if token:
        ends = datetime.now(timezone.utc) + timedelta(seconds=token["seconds"])  # noqa: UP017 (Python 3.8)
        temporary = directory / "token.new"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
            json.dump({"token": token["token"], "expiry": ends.isoformat()}, f)
        os.replace(temporary, directory / "token")


def _supervisor(root: Path, job_id: str) -> SupervisorRecord | None:
    try:
        who: object = json.loads((root / "jobs" / job_id / "supervisor.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return cast("SupervisorRecord", who) if isinstance(who, dict) and "pid" in who else None


def _sweep(root: Path) -> None:
    """Cleans up after jobs whose supervisor and watchdog both died, as after a reboot. Call it under the lock.

    A job has a lease before it has a directory, and is marked as ended after it has released the lease.
    """
    leases.current(root)
    for directory in (root / "jobs").glob("*"):
        if not (directory / "ended").exists() and not leases.exists(root, directory.name):
            supervisor.remove_rest(directory)


def _remove_old(root: Path) -> None:
    found = sorted((root / "jobs").glob("*/ended"), key=lambda path: path.stat().st_mtime)
    for ended in found[:-KEPT_JOBS]:
        shutil.rmtree(ended.parent, ignore_errors=True)


def _last_lines(path: Path, count: int) -> list[str]:
    with path.open("rb") as f:
        f.seek(max(0, path.stat().st_size - 64 * 1024))
        return f.read().replace(b"\0", b"").decode(errors="replace").splitlines()[-count:]
