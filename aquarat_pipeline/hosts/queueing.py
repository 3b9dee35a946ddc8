"""Waiting for hosts: which of them can run a job, and whose turn it is.

A shortage never fails a run: the run waits and says for what. The run that has waited longest is served first: a
waiting step leaves a ticket in DAGSTER_HOME, and only the oldest ticket that can use a host tries it. Tickets only keep
the order among the workers of one control host; the leases on the hosts decide. A ticket also says what its step
needs, even if no host could ever give it, so that a host can be rented for it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from aquarat_core.agent import processes
from aquarat_pipeline.hosts.inventory import FILE, Host, InventoryError, read_inventory
from aquarat_pipeline.hosts.requirement import Requirement

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

    def __call__(self, why: str, lasting: str = "") -> None:
        """`lasting` says for how long it has been so, which is no new reason."""
        if why != self._last or time.monotonic() - self._when > REMIND_SECONDS:
            self._report(f"{WAITING}{why}{lasting}")
            self._last, self._when = why, time.monotonic()


@dataclass(frozen=True, slots=True)
class Ticket:
    """The place in line of one step, in a file that its process writes and removes."""

    path: Path
    run_id: str
    step: str
    waiting_since: float
    """Seconds since 1970."""
    budget_micros: int | None = None
    """What rentals for the run may cost, in millionths of a dollar."""

    def write(self, need: Requirement, hosts: list[Host]) -> None:
        """Records what the step waits for, and which hosts it could use. Renting reads `need`; workers read `hosts`."""
        record = {
            "hosts": [host.name for host in hosts],
            "process": processes.identity(os.getpid()),
            "run": self.run_id,
            "step": self.step,
            "since": self.waiting_since,
            "need": asdict(need),
            "budget_micros": self.budget_micros,
        }
        processes.write_durably(self.path, record)


@dataclass(frozen=True, slots=True)
class WaitingStep:
    """A step that waits for hosts, as its ticket says."""

    run_id: str
    step: str
    waiting_since: float
    """Seconds since 1970."""
    need: Requirement
    hosts: tuple[str, ...]
    """Names of hosts that it could use when they are free; none if there are fewer than it needs."""
    budget_micros: int | None = None
    """What rentals for its run may cost, in millionths of a dollar."""


@contextmanager
def ticket(home: Path, run_id: str, step: str, created: float, budget_micros: int | None = None) -> Generator[Ticket]:
    """A place in line, ordered by `created` (the run's creation time); it ends with its process."""
    directory = _queue(home)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{created:017.3f}-{run_id}-{step}.json"
    try:
        yield Ticket(path, run_id, step, time.time(), budget_micros)
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def waiting_steps(home: Path) -> list[WaitingStep]:
    """All steps that wait for hosts now, in the order in which they are served: the demand for hosts.

    Leaves out tickets of dead processes, and those of workers that are too old to say what they need.
    """
    found: list[WaitingStep] = []
    for path in sorted(_queue(home).glob("*.json")):
        with suppress(FileNotFoundError, ValueError, RecursionError):
            record = _TICKET.validate_json(path.read_bytes())
            if processes.is_alive(record.process):
                found.append(
                    WaitingStep(record.run, record.step, record.since, record.need, record.hosts, record.budget_micros)
                )
    return found


def queued(home: Path) -> set[str]:
    """Names of the tickets that are there, whoever wrote them: cheap, to see whether one was added."""
    with suppress(FileNotFoundError):
        return {name for name in os.listdir(_queue(home)) if name.endswith(".json")}
    return set()


def candidates(
    home: Path, need: Requirement, mine: Ticket, avoid: set[str], now: Callable[[], float] = time.time
) -> tuple[list[Host], str]:
    """The hosts that this ticket may try now, cheapest first, and why there are not enough, if so.

    A host in `avoid` (it has just failed this job) is only tried if no other host is suitable; a job on a varying
    number of hosts leaves that to its placement. A rented host is not tried if too little of its life is left at the
    time `now`.
    """
    try:
        hosts = read_inventory(home).hosts
    except InventoryError as e:
        return [], f"a usable inventory: {e}"
    fitting, ending = _fitting(hosts, need, now())
    found, fitting = len(fitting), together(fitting, need.nodes)
    if not fitting:
        # It keeps no host from others, but says what it needs: such a host may be rented.
        mine.write(need, [])
        reasons = "".join(f"; {reason}" for reason in ending)
        apart = ", not enough at one site" if found >= need.nodes else ""
        there = f"{FILE} has {found} of these{apart}{reasons}"
        return [], f"{need}: {there}; add one, or change the run's requirements"
    if need.max_nodes is None:
        not_recently_failed = [host for host in fitting if host.name not in avoid]
        fitting = together(not_recently_failed, need.nodes) or fitting
    # Written before the others are read, so that of two simultaneous tickets at least one sees the other.
    mine.write(need, fitting)
    wanted = _wanted_by_older(mine.path)
    free = together([host for host in fitting if host.name not in wanted], need.nodes)
    if not free:
        return [], f"{need}: others were first in line"
    return sorted(free, key=lambda host: (host.price_per_hour, host.gpus, host.name)), ""


def together(hosts: Iterable[Host], nodes: int) -> list[Host]:
    """Those of the hosts that a job on so many can use: a job on several needs all of them at one site."""
    hosts = list(hosts)
    count = Counter(host.site for host in hosts)
    return [host for host in hosts if nodes == 1 or count[host.site] >= nodes]


def _fitting(hosts: Iterable[Host], need: Requirement, now: float) -> tuple[list[Host], list[str]]:
    """The hosts that can run the job, and why others that would fit take none anymore."""
    fitting: list[Host] = []
    ending: list[str] = []
    for host in hosts:
        if need.fits(host):
            if why := host.why_no_job(now, several=need.nodes > 1):
                ending.append(f"{host.name} takes no job, because {why}")
            else:
                fitting.append(host)
    return fitting, ending


def _queue(home: Path) -> Path:
    return home / "aquarat" / "queue"


@dataclass(frozen=True, slots=True)
class _Record:
    """What `waiting_steps` reads of a ticket; further fields, also of the requirement, are ignored."""

    run: str
    step: str
    since: float
    need: Requirement
    hosts: tuple[str, ...]
    process: dict[str, Any]
    budget_micros: int | None = None


_TICKET = TypeAdapter(_Record)


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
