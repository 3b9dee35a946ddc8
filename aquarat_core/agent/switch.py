"""The dead-man's switch of a rented host: a process that ends the host's jobs if nobody else does.

It has two limits: the end of the rental, and the time for which the control host may be silent. Both are counted by the
clock since boot, so the host's date does not matter. When one is reached, no job can begin anymore, the supervisors end
their jobs and publish what they have, and the host powers off if that was asked. The process outlives the ssh
connection and the control host. There is one per host: it holds `switch.lock` as long as it lives, and follows
`switch.json`, which every `arm` replaces.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from . import leases, processes

if TYPE_CHECKING:
    from .protocol import ArmReply, ArmRequest, DisarmReply, DisarmRequest, SupervisorRecord, SwitchRecord

RECORD = "switch.json"
LOCK = "switch.lock"
LOG = "switch.log"
LOOK_SECONDS = 1.0
LOCK_SECONDS = 20.0
"""How long the switch waits for the lock of the leases before it goes on without: an agent that hangs may hold it."""
KILL_SECONDS = 5.0
"""How much longer than its grace a job may take to end before the switch kills it."""
PUBLISH_SECONDS = 90.0
"""How much longer than its job a supervisor may live: it uploads the last output and the last status."""
GRACE_SECONDS = 60.0
"""The grace of a job whose supervisor did not write it down."""
RETRY_SECONDS = 60.0
"""How often the switch tries to power the host off."""
POWER_OFF = (("sudo", "-n", "systemctl", "poweroff"), ("systemctl", "poweroff"))


def arm(root: Path, request: ArmRequest) -> ArmReply:
    """Arms the switch with these limits in place of the former ones, and starts its process unless it is alive.

    A switch that has fired stays so until `disarm`. Raises ValueError if a limit is not a number of seconds.
    """
    for name in ("end_in", "orphan_after"):
        limit: object = request[name]
        if type(limit) not in (int, float) or limit != limit:
            raise ValueError(f"{name} is a number of seconds, not {limit!r}")
    now = leases.now()
    record: SwitchRecord = {
        "ends": now + request["end_in"],
        "renewed": now,
        "orphan_after": request["orphan_after"],
        "power_off": request["power_off"],
        "fired": None,
    }
    with leases.locked(root):
        found = _known(root, None)
        if found is None or found["fired"] is None:
            _write(root, record)
        # Also if it has fired: it may have been killed before it was done.
        started = _start(root)
    if found and found["fired"]:
        return {"state": "fired", "reason": found["fired"]}
    return {"state": "armed", "started": started}


def disarm(root: Path, _: DisarmRequest) -> DisarmReply:
    """Removes the switch; its process ends within seconds."""
    with leases.locked(root):
        (root / RECORD).unlink(missing_ok=True)
    return {"state": "disarmed"}


def state(root: Path) -> str | None:
    """The switch in words, or None if it is not armed."""
    record = _known(root, None)
    if record is None:
        return None
    if record["fired"]:
        return f"has fired: {record['fired']}"
    now = leases.now()
    silent = record["renewed"] + record["orphan_after"] - now
    limits = f"fires in {_span(record['ends'] - now)}, or in {_span(silent)} unless renewed"
    with leases.locked(root), _lock(root) as free:
        return f"{limits}, but its process has died" if free is not None else limits


def _start(root: Path) -> bool:
    """Starts the process unless one lives. Call it under the lock of the leases."""
    with _lock(root) as handle:
        if handle is None:
            return False
        # The process inherits the lock with the open file.
        processes.daemonize(lambda: _watch(root, handle), root / LOG, kept=handle)
    return True


@contextmanager
def _lock(root: Path) -> Generator[int | None]:
    """An open file that holds the lock of the process, or None if another holds it."""
    handle = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield handle
    finally:
        os.close(handle)


def _watch(root: Path, lock: int) -> int:
    """The process: waits for a limit, then ends the jobs. Returns its exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    record: SwitchRecord | None = None
    while True:
        record = _known(root, record)
        if record is None and _release(root, lock):
            return 0
        if record and _due(record) and (reason := _fire(root, record)):
            _say(f"it ends the jobs of this host: {reason}")
            _end_jobs(root)
            _say("no job is left")
            while record["power_off"] and (root / RECORD).exists():
                _power_off()
                time.sleep(RETRY_SECONDS)
            return 0
        time.sleep(LOOK_SECONDS)


def _release(root: Path, lock: int) -> bool:
    """Gives up the lock if the switch is still not armed: an `arm` either comes before, or starts another process."""
    with leases.locked(root):
        gone = not (root / RECORD).exists()
        if gone:
            os.close(lock)
    return gone


def _due(record: SwitchRecord) -> str | None:
    """Why the jobs have to end now."""
    now = leases.now()
    if record["fired"]:
        return record["fired"]
    if now >= record["ends"]:
        return "the rental is over"
    if now >= record["renewed"] + record["orphan_after"]:
        return f"its control host was silent for {_span(record['orphan_after'])}"
    return None


def _fire(root: Path, record: SwitchRecord) -> str | None:
    """Keeps new jobs away and writes down why, unless the switch was renewed at the last moment."""
    with _locked_if_possible(root):
        now_known = _known(root, record)
        reason = _due(now_known) if now_known else None
        if now_known and reason:
            # A disk may be full: the jobs end nevertheless.
            with suppress(OSError):
                _write(root, {**now_known, "fired": reason})
            with suppress(OSError):
                leases.set_drained(root, reason)
    return reason


@contextmanager
def _locked_if_possible(root: Path) -> Generator[None]:
    deadline = time.monotonic() + LOCK_SECONDS
    with (root / "lock").open("w") as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
        yield


def _end_jobs(root: Path) -> None:
    """Asks all supervisors to end their jobs, and kills what does not end; returns when no job is left."""
    asked: dict[int, float] = {}
    given_up: set[int] = set()
    while True:
        living = [who for who in _supervisors(root) if who["pid"] not in given_up]
        # A supervisor that has just been started has a lease before it can be found, and a watchdog holds one too.
        held = leases.valid(root)
        if not living and not held:
            return
        for who in living:
            pid = who["pid"]
            if pid not in asked:
                asked[pid] = leases.now()
                _kill(pid, signal.SIGTERM)
            late = leases.now() - asked[pid] - who.get("grace", GRACE_SECONDS)
            if late > PUBLISH_SECONDS:
                _say(f"it kills the supervisor {pid}, which does not end")
                _kill(pid, signal.SIGKILL)
                given_up.add(pid)
            elif late > KILL_SECONDS:
                processes.kill_job_processes(who["mark"], seconds=LOOK_SECONDS)
        led = {who["mark"] for who in living}
        for lease in held:
            if lease["mark"] not in led:
                processes.kill_job_processes(lease["mark"], seconds=LOOK_SECONDS)
        time.sleep(0.2)


def _supervisors(root: Path) -> list[SupervisorRecord]:
    """The living ones."""
    found: list[SupervisorRecord] = []
    for path in (root / "jobs").glob("*/supervisor.json"):
        with suppress(OSError, ValueError, RecursionError):
            who: object = json.loads(path.read_bytes()[: leases.MAX_BYTES])
            if processes.is_alive(who):
                found.append(cast("SupervisorRecord", who))
    return found


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _power_off() -> None:
    for command in POWER_OFF:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            _say(f"{' '.join(command)}: {e}")
            continue
        _say(f"{' '.join(command)}: {done.stdout.decode(errors='replace').strip() or done.returncode}")
        if done.returncode == 0:
            return


def _known(root: Path, last: SwitchRecord | None) -> SwitchRecord | None:
    """The record, or None if the switch is not armed; `last` if it cannot be read."""
    try:
        found: object = json.loads((root / RECORD).read_bytes()[: leases.MAX_BYTES])
    except FileNotFoundError:
        return None if root.is_dir() else last
    except (OSError, ValueError, RecursionError):
        return last
    fields = {"ends", "renewed", "orphan_after", "power_off", "fired"}
    return cast("SwitchRecord", found) if isinstance(found, dict) and fields <= found.keys() else last


def _write(root: Path, record: SwitchRecord) -> None:
    try:
        processes.write_durably(root / RECORD, record)
    except OSError:
        if not (root / RECORD).exists():
            raise
        # A full disk has no room for a second file, but the block of the first one has.
        with (root / RECORD).open("r+b") as f:
            f.write(json.dumps(record).encode())
            f.truncate()


def _say(text: str) -> None:
    print(f"{time.strftime('%F %T')} {text}", flush=True)


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
