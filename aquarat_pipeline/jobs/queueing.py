"""Waiting for hosts: which of them could serve a job, and whose turn it is.

A shortage never fails a run: the run waits, and says for what. The run that has waited longest is served first: a
waiting step leaves a ticket in DAGSTER_HOME, and a host is only tried by the oldest ticket that could use it. Tickets
only keep the order among the workers of one control host; what decides are the leases on the hosts.
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

POLL_SECONDS = 2.0
REMIND_SECONDS = 300.0


class WaitReporter:
    """Reports what a step waits for: when it begins to wait, when that changes, and every five minutes."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._last = ""
        self._when = 0.0

    def __call__(self, why: str) -> None:
        if why != self._last or time.monotonic() - self._when > REMIND_SECONDS:
            self._report(f"Waiting for {why}")
            self._last, self._when = why, time.monotonic()


@contextmanager
def ticket(home: Path, name: str, since: float) -> Generator[Path]:
    """A place in line, by `since` (a run's creation time); it is worth nothing once its process is gone."""
    directory = home / "aquarat" / "queue"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{since:017.3f}-{name}.json"
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def candidates(home: Path, need: Requirement, mine: Path, avoid: set[str]) -> tuple[list[Host], str]:
    """The hosts that this ticket may try now, cheapest first, and why there are too few if there are.

    A host in `avoid` (it just failed this job) is tried only if no other could serve.
    """
    try:
        hosts = read_inventory(home).hosts
    except InventoryError as e:
        return [], f"a usable inventory: {e}"
    fitting = [host for host in hosts if need.fits(host)]
    if len(fitting) < need.nodes:
        return [], f"{need}: hosts.yaml has {len(fitting)} such; add one, or change what the run asks for"
    not_recently_failed = [host for host in fitting if host.name not in avoid]
    fitting = not_recently_failed if len(not_recently_failed) >= need.nodes else fitting
    # Written before the others' are read: of two that come at once at least one sees the other.
    _write_ticket(mine, [host.name for host in fitting])
    wanted = _wanted_by_older(mine)
    free = [host for host in fitting if host.name not in wanted]
    if len(free) < need.nodes:
        return [], f"{need}: others were first in line"
    return sorted(free, key=lambda host: (host.price_per_hour, host.gpus, host.name)), ""


def _write_ticket(path: Path, hosts: list[str]) -> None:
    processes.write_durably(path, {"hosts": hosts, "process": processes.identity(os.getpid())})


def _wanted_by_older(mine: Path) -> set[str]:
    """Hosts that a living ticket before this one could use."""
    wanted: set[str] = set()
    for path in sorted(mine.parent.glob("*.json")):
        if path.name >= mine.name:
            break
        with suppress(FileNotFoundError):
            try:
                found = json.loads(path.read_text())
                process, hosts = found["process"], set(map(str, found["hosts"]))
            except (ValueError, RecursionError, TypeError, KeyError) as e:
                # Tickets are written atomically: only a power cut leaves a damaged one, and nobody waits behind it.
                log.warning("the place in line %s cannot be read (%s): it is removed", path, e)
                process, hosts = None, set[str]()
            if processes.is_alive(process):
                wanted.update(hosts)
            else:
                path.unlink()
    return wanted
