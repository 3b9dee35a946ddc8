"""Waiting for hosts: which of them can run a job, and whose turn it is.

A shortage never fails a run: the run waits and says for what. The run that has waited longest is served first: a
waiting step leaves a ticket in DAGSTER_HOME, and only the oldest ticket that can use a host tries it. Tickets only keep
the order among the workers of one control host; the leases on the hosts decide.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from aquarat_core.agent import processes
from aquarat_pipeline.hosts.inventory import Host, InventoryError, read_inventory
from aquarat_pipeline.jobs.requirement import Requirement

log = logging.getLogger(__name__)

WAITING = "Waiting for "
"""Begins the line of a run's log that says what it waits for."""
POLL_SECONDS = 2.0
REMIND_SECONDS = 300.0


class WaitReporter:
    """Reports what a step waits for: when it starts to wait, when the reason changes, and every five minutes."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._last = ""
        self._when = 0.0

    def __call__(self, why: str) -> None:
        if why != self._last or time.monotonic() - self._when > REMIND_SECONDS:
            self._report(f"{WAITING}{why}")
            self._last, self._when = why, time.monotonic()


@contextmanager
def ticket(home: Path, name: str, since: float) -> Generator[Path]:
    """A place in line, ordered by `since` (a run's creation time); it ends with its process."""
    directory = home / "aquarat" / "queue"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{since:017.3f}-{name}.json"
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def candidates(home: Path, need: Requirement, mine: Path, avoid: set[str]) -> tuple[list[Host], str]:
    """The hosts that this ticket may try now, cheapest first, and why there are not enough, if so.

    A host in `avoid` (it has just failed this job) is only tried if no other host is suitable.
    """
    try:
        hosts = read_inventory(home).hosts
    except InventoryError as e:
        return [], f"a usable inventory: {e}"
    fitting = [host for host in hosts if need.fits(host)]
    if len(fitting) < need.nodes:
        return [], f"{need}: hosts.yaml has {len(fitting)} of these; add one, or change the run's requirements"
    not_recently_failed = [host for host in fitting if host.name not in avoid]
    fitting = not_recently_failed if len(not_recently_failed) >= need.nodes else fitting
    # Written before the others are read, so that of two simultaneous tickets at least one sees the other.
    _write_ticket(mine, [host.name for host in fitting])
    wanted = _wanted_by_older(mine)
    free = [host for host in fitting if host.name not in wanted]
    if len(free) < need.nodes:
        return [], f"{need}: others were first in line"
    return sorted(free, key=lambda host: (host.price_per_hour, host.gpus, host.name)), ""


def _write_ticket(path: Path, hosts: list[str]) -> None:
    processes.write_durably(path, {"hosts": hosts, "process": processes.identity(os.getpid())})


def _wanted_by_older(mine: Path) -> set[str]:
    """Hosts that an older ticket of a living process could use."""
    wanted: set[str] = set()
    for path in sorted(mine.parent.glob("*.json")):
        if path.name >= mine.name:
            break
        with suppress(FileNotFoundError):
            try:
                found = json.loads(path.read_text())
                process, hosts = found["process"], set(map(str, found["hosts"]))
            except (ValueError, RecursionError, TypeError, KeyError) as e:
                # Tickets are written atomically, so only a power cut leaves a damaged one, and no process waits for it.
                log.warning("the place in line %s cannot be read (%s): it is removed", path, e)
                process, hosts = None, set[str]()
            if processes.is_alive(process):
                wanted.update(hosts)
            else:
                path.unlink()
    return wanted
