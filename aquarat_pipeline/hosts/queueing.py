"""Waiting for hosts: the tickets of waiting steps, and the answers that they get.

A shortage never fails a run: the run waits and says for what. A waiting step leaves a ticket in DAGSTER_HOME, which is
written when it begins to wait and after a host has refused the job, and reads the answer that the allocator
(`allocator.py`) writes: the hosts that it may take, or why there are none. A ticket also says what its step needs, even
if no host could ever give it, so that a host can be rented for it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from aquarat_core.agent import processes
from aquarat_pipeline.hosts.inventory import Host
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.workers import is_parked

WAITING = "Waiting for "
"""Begins the line of a run's log that says what it waits for."""
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
class HeldLease:
    """A lease that a host has given, as it said when it refused a job."""

    mark: str
    """`<URI of the job's folder>#node<number>`."""
    gpus: int
    counts: bool = True
    """Whether it counts toward the host's `max_leases`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a host did not take a job, and the leases it has given; None if it did not say."""

    reason: str
    held: tuple[HeldLease, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the allocator says to a ticket: hosts to start on, or why there are none yet."""

    since: float
    """The `since` of the ticket that is meant: a later one of the same step waits for an answer of its own."""
    hosts: tuple[str, ...] = ()
    why: str = ""
    number: int = 0
    """Identifies the grant, and with it what the step says about it."""


@dataclass(frozen=True, slots=True)
class Record:
    """The content of a ticket; further fields, also of the requirement, are ignored."""

    run: str
    step: str
    since: float
    need: Requirement
    process: dict[str, Any]
    hosts: tuple[str, ...] = ()
    """Only in a ticket of a worker from before there was an allocator: the hosts that it keeps from younger ones."""
    budget_micros: int | None = None
    asks: bool = False
    """Whether it waits for an answer; a worker from before takes the hosts itself."""
    avoid: tuple[str, ...] = ()
    """Hosts on which the step has just failed: only used if no others fit."""
    answered: int = 0
    """The number of the last grant that led to no start."""
    refused: dict[str, Refusal] = field(default_factory=dict[str, Refusal])
    """What the hosts of that grant said."""

    def is_alive(self, home: Path) -> bool:
        """Whether somebody waits for the answer: its process, or the follower for a parked run."""
        return processes.is_alive(self.process) or is_parked(home, self.run)


@dataclass(frozen=True, slots=True)
class WaitingStep:
    """A step that waits for hosts, as its ticket says."""

    run_id: str
    step: str
    waiting_since: float
    """Seconds since 1970."""
    need: Requirement
    budget_micros: int | None = None
    """What rentals for its run may cost, in millionths of a dollar."""


@dataclass(slots=True)
class Ticket:
    """The place in line of one step, in a file that its process writes and removes."""

    home: Path
    name: str
    """Tickets are served in the order of their names, which begin with the time at which their runs were created."""
    record: Record
    refused_number: int = 0
    """The last grant that led to no start."""

    def refuse(self, number: int, refused: Mapping[str, Refusal]) -> None:
        """Says that the grant with that number led to no start, and why."""
        self.refused_number = number
        self.write(number, refused)

    def answer(self) -> Answer | None:
        """What the allocator has said so far."""
        said = read_answer(self.home, self.name)
        return said if said and said.since == self.record.since else None

    def write(self, answered: int = 0, refused: Mapping[str, Refusal] = MappingProxyType({})) -> None:
        """Writes the file."""
        own = asdict(self.record)
        told = {host: asdict(refusal) for host, refusal in refused.items()}
        path = queue(self.home) / f"{self.name}.json"
        processes.write_durably(path, {**own, "answered": answered, "refused": told})


def ticket_name(run_id: str, step: str, created: float) -> str:
    return f"{created:017.3f}-{run_id}-{step}"


@contextmanager
def ticket(
    home: Path,
    run_id: str,
    step: str,
    created: float,
    need: Requirement,
    budget_micros: int | None = None,
    avoid: Iterable[str] = (),
) -> Generator[Ticket]:
    """A place in line, ordered by `created` (the run's creation time); it ends with its process.

    A worker that takes a run over takes its step's place over, with the answer.
    """
    queue(home).mkdir(parents=True, exist_ok=True)
    me: dict[str, Any] = {**processes.identity(os.getpid())}
    name = ticket_name(run_id, step, created)
    since = time.time()
    with suppress(FileNotFoundError, ValueError, RecursionError):
        since = parse_ticket((queue(home) / f"{name}.json").read_bytes()).since
    record = Record(run_id, step, since, need, me, (), budget_micros, True, tuple(sorted(avoid)))
    mine = Ticket(home, name, record)
    mine.write()
    try:
        yield mine
    finally:
        remove_ticket(home, name)


def remove_ticket(home: Path, name: str) -> None:
    """Removes a place in line, if it is there."""
    with suppress(FileNotFoundError):
        (queue(home) / f"{name}.json").unlink()


def waiting_steps(home: Path) -> list[WaitingStep]:
    """All steps that wait for hosts now, in the order in which they are served: the demand for hosts.

    Leaves out tickets of dead processes, and those of workers that are too old to say what they need.
    """
    found: list[WaitingStep] = []
    for path in sorted(queue(home).glob("*.json")):
        with suppress(FileNotFoundError, ValueError, RecursionError):
            record = parse_ticket(path.read_bytes())
            if record.is_alive(home):
                found.append(WaitingStep(record.run, record.step, record.since, record.need, record.budget_micros))
    return found


def queued(home: Path) -> set[str]:
    """Names of the tickets that are there, whoever wrote them: cheap, to see whether one was added."""
    with suppress(FileNotFoundError):
        return {name for name in os.listdir(queue(home)) if name.endswith(".json")}
    return set()


def together(hosts: Iterable[Host], nodes: int) -> list[Host]:
    """Those of the hosts that a job on so many can use: a job on several needs all of them at one site."""
    hosts = list(hosts)
    count = Counter(host.site for host in hosts)
    return [host for host in hosts if nodes == 1 or count[host.site] >= nodes]


def queue(home: Path) -> Path:
    return home / "aquarat" / "queue"


def answers(home: Path) -> Path:
    return home / "aquarat" / "answers"


def read_answer(home: Path, name: str) -> Answer | None:
    """The allocator's answer to that ticket, if there is one."""
    with suppress(FileNotFoundError, ValueError, RecursionError):
        return parse_answer((answers(home) / f"{name}.json").read_bytes())
    return None


_TICKET = TypeAdapter(Record)
_ANSWER = TypeAdapter(Answer)
parse_ticket = _TICKET.validate_json
"""Reads a ticket; raises ValueError."""
parse_answer = _ANSWER.validate_json
"""Reads an answer; raises ValueError."""
