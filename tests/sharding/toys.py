"""Shard functions for the tests. `work.aside["log"]` names a folder that gets a file for each call."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from aquarat_core.errors import DataError
from aquarat_core.sharding.spec import Counts, ShardSpec, Work

CODE = "1" * 64


def spec(number: int, log: Path, function: str = "digits", settings: dict | None = None, **aside: object) -> ShardSpec:
    """A shard of the function of that name here."""
    return ShardSpec(
        name=f"shard-{number:03d}", function=f"tests.sharding.toys:{function}", code=CODE,
        settings={"number": number} | (settings or {}), aside={"log": str(log)} | aside,
    )  # fmt: skip


def calls(log: Path) -> list[int]:
    """The numbers of the shards that were begun, sorted."""
    return sorted(int(path.name.partition("-")[0]) for path in log.iterdir())


def _note(work: Work) -> int:
    """Leaves a file for this call; returns how many there were for the shard before."""
    log, number = Path(work.aside["log"]), work.settings["number"]
    before = len(list(log.glob(f"{number}-*")))
    (log / f"{number}-{uuid.uuid4().hex}").touch()
    return before


def digits(work: Work) -> Counts:
    """A file of bytes that follow from the number alone, after a pause."""
    _note(work)
    time.sleep(work.aside.get("pause", 0.0))
    number = work.settings["number"]
    (work.folder / "digits").write_bytes(hashlib.sha256(str(number).encode()).digest() * 100)
    return {"number": number, "third": number / 3}


def on_host(work: Work) -> Counts:
    """The number of the host that it runs on."""
    return digits(work) | {"host": int(os.environ["TOY_HOST"])}


def dies_once(work: Work) -> Counts:
    """Ends its process at the first call, and prints where replies are expected."""
    if _note(work) == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    print("{not a reply")
    return {"number": work.settings["number"]}


def poison(work: Work) -> Counts:
    """Number 3 ends its process whenever it is made."""
    _note(work)
    if work.settings["number"] == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def fails(work: Work) -> Counts:
    """Number 3 raises an exception that is no mistake of the user."""
    _note(work)
    if work.settings["number"] == 3:
        raise ZeroDivisionError("three")
    return {}


def refuses(work: Work) -> Counts:
    """Number 3 has a mistake that the user can correct."""
    _note(work)
    if work.settings["number"] == 3:
        raise DataError("shard 3 has no text. Choose another")
    return {}


def slow_once(work: Work) -> Counts:
    """Number 3 hangs at the first call."""
    if _note(work) == 0 and work.settings["number"] == 3:
        time.sleep(600)
    return {"number": work.settings["number"]}


def impure_twice(work: Work) -> Counts:
    """Another file each time; does not end before it was called twice."""
    _note(work)
    log, number = Path(work.aside["log"]), work.settings["number"]
    _until(lambda: len(list(log.glob(f"{number}-*"))) > 1)
    (work.folder / "random").write_bytes(os.urandom(8))
    return {}


def hangs(work: Work) -> Counts:
    """Does not end before the stage does."""
    _note(work)
    time.sleep(600)
    return {}


def _until(what: Callable[[], bool]) -> None:
    for _ in range(6_000):
        if what():
            return
        time.sleep(0.1)


def says(work: Work) -> Counts:
    """The state of the process that a shard runs in."""
    return {
        "ignores_interrupts": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "threads": work.threads,
        "process": os.getpid(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "torch": "torch" in sys.modules,
    }


def stubborn(work: Work) -> Counts:
    """Never ends by itself, and takes no notice of signals that can be ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _note(work)
    (Path(work.aside["log"]).parent / f"pid-{os.getpid()}").touch()
    time.sleep(600)
    return {}
