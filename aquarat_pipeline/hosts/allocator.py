"""The allocator: decides, for all waiting steps of a control host, which of them gets which hosts.

The run that was created first is served first. What it needs and cannot get is kept for it: a younger run only gets
hosts that no older one could use, so that none starves. Exactly one process decides, the one that holds a lock, which
the kernel frees when it dies in any way; everything that must outlive it is in files (`queueing.py`, `occupancy.py`).
A grant is no lease: the step starts its job on the granted hosts, whose own leases decide, and a refusal is told in its
ticket.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from dataclasses import replace as replace_fields
from pathlib import Path

from aquarat_pipeline.hosts.fleet import Fleet, Room
from aquarat_pipeline.hosts.host import RentedHost
from aquarat_pipeline.hosts.inventory import FILE, Host
from aquarat_pipeline.hosts.queueing import (
    Answer,
    Record,
    Ticket,
    answers,
    parse_answer,
    parse_ticket,
    queue,
    together,
)
from aquarat_pipeline.hosts.records import Records, replace
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.hosts.teams import teams
from aquarat_pipeline.hosts.watching import Watcher
from aquarat_pipeline.locks import HeldError, held

POLL_SECONDS = 0.25
DECIDE_SECONDS = 5.0
"""Even if nothing has changed, because a process that waited may have died."""
NAMED = 3
"""A waiting step is told why this many hosts are not free; of further ones, how many there are."""


@dataclass(slots=True)
class _Class:
    """All waiting steps with the same needs: what holds for one of them holds for those behind it."""

    need: Requirement
    fitting: list[Host]
    """Cheapest first."""
    why_none: str
    why_behind: str
    position: int = 0
    """No host before this one is free anymore in this turn."""
    failed: bool = False


@dataclass
class Allocator:
    """Call `turn` often: it is cheap while nothing changes. Only one process may, see `SharedAllocator`."""

    home: Path
    now: Callable[[], float] = time.time
    watcher: Watcher = field(default_factory=Watcher)

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.home, self.now, self.watcher)
        self._tickets = Records(queue(self.home), parse_ticket)
        self._grants: dict[str, Answer] = {}
        self._said: dict[str, Answer] = {}
        """The content of every file with an answer."""
        self._known: dict[Requirement, _Class] = {}
        self._known_for: dict[str, Host] | None = None
        self._rents = False
        self._behind: set[str] = set()
        """Tickets that were told that others are first in line."""
        self._numbers: dict[Requirement, int] = {}
        self._needs: dict[str, int] = {}
        """The number of each ticket's requirement, because one is slow to hash."""
        self._decided = self._cleared = float("-inf")
        self.decisions = 0
        """How often it has decided."""
        self._number = time.time_ns()
        answers(self.home).mkdir(parents=True, exist_ok=True)
        kept = Records(answers(self.home), parse_answer)
        kept.refresh()
        for name, answer in kept.items.items():
            self._said[name] = answer
            if answer.hosts:
                self._grants[name] = answer

    def turn(self) -> None:
        """Takes notice of what has changed, and gives hosts to those whose turn it is."""
        names = self._tickets.refresh()
        # First, because what hosts have refused is only kept of those that are known.
        changed = self.fleet.refresh(waiting=bool(self._tickets.items)) or bool(names)
        for name in names:
            self._notice(name)
        if changed or (self._tickets.items and self.now() - self._decided >= DECIDE_SECONDS):
            self._decided = self.now()
            self.decisions += 1
            self._forget()
            self._decide()

    def close(self) -> None:
        self.fleet.close()

    def _notice(self, name: str) -> None:
        """A ticket is new, was changed or is gone."""
        ticket, grant = self._tickets.items.get(name), self._grants.get(name)
        self._behind.discard(name)
        self._needs.pop(name, None)
        if ticket is not None:
            self._needs[name] = self._numbers.setdefault(ticket.need, len(self._numbers))
        if ticket is None or (grant and ticket.since != grant.since):
            if grant and self.fleet.occupies(name):
                self.fleet.started(grant.hosts)
            self._grants.pop(name, None)
        elif grant is None or ticket.answered == grant.number:
            # Without a grant if another process was the allocator when the hosts refused.
            self._grants.pop(name, None)
            for host, refusal in ticket.refused.items():
                self.fleet.refused(host, refusal, ticket.need)

    def _forget(self) -> None:
        """Removes tickets whose process died with a grant, and answers to tickets that are gone."""
        # Not at every decision: thousands of parked runs may have a grant, and a decision follows each of their starts.
        if self.now() - self._cleared >= DECIDE_SECONDS:
            self._cleared = self.now()
            for name in [name for name in self._grants if name in self._tickets.items]:
                if not self._tickets.items[name].is_alive(self.home):
                    self._drop(name)
        for name in [name for name in self._said if name not in self._tickets.items]:
            self._grants.pop(name, None)
            del self._said[name]
            (answers(self.home) / f"{name}.json").unlink(missing_ok=True)

    def _drop(self, name: str) -> None:
        self._tickets.remove(name)
        self._grants.pop(name, None)

    def _decide(self) -> None:
        rooms = self.fleet.rooms({name: self._sizes(name, grant.hosts) for name, grant in self._grants.items()})
        kept: set[str] = set()
        classes: dict[int, _Class] = {}
        for name, ticket in sorted(self._tickets.items.items()):
            if name in self._grants:
                continue
            if not ticket.asks:
                self._keep_for_older_version(name, ticket, kept)
                continue
            number = self._needs[name]
            kind = classes.get(number)
            if kind is None:
                kind = classes[number] = self._class(ticket.need)
            # Nothing changes for most of a thousand steps that wait.
            if kind.failed and kind.fitting and not ticket.avoid and name in self._behind:
                continue
            self._serve(name, ticket, kind, rooms, kept)

    def _serve(self, name: str, ticket: Record, kind: _Class, rooms: Mapping[str, Room], kept: set[str]) -> None:
        """Gives the ticket hosts, or keeps for it what it could use."""
        need, first = ticket.need, not kind.failed
        allowed = _allowed(kind, ticket.avoid)
        chosen = [] if kind.failed and not ticket.avoid else _choose(need, kind, allowed, rooms, kept, ticket.avoid)
        if (chosen or first) and not ticket.is_alive(self.home):
            self._drop(name)
        elif chosen:
            for host in chosen:
                rooms[host.name].take(need.gpus_on(host))
            self._number += 1
            self._grants[name] = Answer(ticket.since, tuple(host.name for host in chosen), number=self._number)
            self._say(name, self._grants[name])
        else:
            why = self._why(kind, allowed, rooms, kept)
            self._say(name, Answer(ticket.since, why=why))
            if why == kind.why_behind:
                self._behind.add(name)
            # The hosts of those behind the first are kept already: for a thousand steps, this must not be done again.
            if not kind.failed and len(allowed) >= need.nodes:
                kept.update(host.name for host in allowed)
            kind.failed = kind.failed or not ticket.avoid

    def _keep_for_older_version(self, name: str, ticket: Record, kept: set[str]) -> None:
        """A worker from before there was an allocator takes its hosts itself, if no older ticket names them."""
        if ticket.is_alive(self.home):
            kept.update(ticket.hosts)
        else:
            self._drop(name)

    def _class(self, need: Requirement) -> _Class:
        """The hosts that can run such a job, or why there are none; the same until the inventory or time changes it."""
        if self._known_for is not self.fleet.hosts or self._rents:
            self._known_for = self.fleet.hosts
            self._rents = any(isinstance(host, RentedHost) for host in self.fleet.hosts.values())
            self._known.clear()
        if need not in self._known:
            self._known[need] = self._look_for(need)
        return replace_fields(self._known[need])

    def _look_for(self, need: Requirement) -> _Class:
        fitting: list[Host] = []
        ending: list[str] = []
        for host in self.fleet.hosts.values():
            if need.fits(host):
                if why := host.why_no_job(self.now(), several=need.nodes > 1):
                    ending.append(f"{host.name} takes no job, because {why}")
                else:
                    fitting.append(host)
        found, fitting = len(fitting), together(fitting, need.nodes)
        reasons = "".join(f"; {reason}" for reason in ending)
        apart = ", not enough at one site" if found >= need.nodes else ""
        why = f"{need}: {FILE} has {found} of these{apart}{reasons}; add one, or change the run's requirements"
        cheapest = sorted(fitting, key=lambda host: (host.price_per_hour, host.gpus, host.name))
        return _Class(need, cheapest, self._unusable() or why, f"{need}: others were first in line")

    def _unusable(self) -> str:
        return f"a usable inventory: {self.fleet.problem}" if self.fleet.problem else ""

    def _why(self, kind: _Class, allowed: Sequence[Host], rooms: Mapping[str, Room], kept: Collection[str]) -> str:
        if not kind.fitting:
            # It keeps no host from others, but says what it needs: such a host may be rented.
            return kind.why_none
        need = kind.need
        if kind.failed or any(host.name in kept for host in allowed):
            return kind.why_behind
        full = [host.name for host in allowed if not _fits(need, host, rooms)]
        named = "; ".join(self.fleet.why_not(full[:NAMED]))
        return f"{need}: {named}{f'; and {len(full) - NAMED} more' if len(full) > NAMED else ''}"

    def _sizes(self, name: str, hosts: Sequence[str]) -> list[tuple[str, int]]:
        """The GPUs that the ticket's job takes of each host."""
        ticket = self._tickets.items.get(name)
        there = [self.fleet.hosts[host] for host in hosts if host in self.fleet.hosts]
        return [(host.name, ticket.need.gpus_on(host) if ticket else 0) for host in there]

    def _say(self, name: str, answer: Answer) -> None:
        self._behind.discard(name)
        if self._said.get(name) != answer:
            self._said[name] = answer
            replace(answers(self.home) / f"{name}.json", asdict(answer))


class SharedAllocator:
    """The allocator of a DAGSTER_HOME: works in the first process that asks for it, and when that ends, in another."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._stack = ExitStack()
        self._mine: Allocator | None = None
        self._said = ""
        """Why there were no hosts, when `wait` last returned."""

    def turn(self) -> None:
        """Lets the allocator take its turn, if it is in this process or in none."""
        if self._mine is None:
            path = self._home / "aquarat" / "allocator.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._stack.enter_context(held(path, str(os.getpid())))
            except HeldError:
                return
            self._mine = Allocator(self._home)
            self._stack.callback(self._mine.close)
        self._mine.turn()

    def close(self) -> None:
        """Leaves the work to others."""
        self._mine = None
        self._stack.close()

    def wait(self, ticket: Ticket, seconds: float) -> Answer | None:
        """The answer to the ticket: at once if it grants hosts or says something new, otherwise after so long."""
        deadline = time.monotonic() + seconds
        while True:
            self.turn()
            answer = ticket.answer()
            if answer and answer.hosts and answer.number == ticket.refused_number:
                answer = None
            if (answer and (answer.hosts or answer.why != self._said)) or time.monotonic() >= deadline:
                self._said = answer.why if answer else ""
                return answer
            time.sleep(POLL_SECONDS)


def _allowed(kind: _Class, avoid: Collection[str]) -> list[Host]:
    """The hosts that fit, without those on which the job has just failed if there are others; for a job on a varying
    number, `_choose` leaves those to the last."""
    if not avoid or kind.need.max_nodes is not None:
        return kind.fitting
    return together([host for host in kind.fitting if host.name not in avoid], kind.need.nodes) or kind.fitting


def _fits(need: Requirement, host: Host, rooms: Mapping[str, Room]) -> bool:
    room = rooms.get(host.name)
    return room is not None and room.has(need.gpus_on(host))


def _choose(
    need: Requirement,
    kind: _Class,
    allowed: Sequence[Host],
    rooms: Mapping[str, Room],
    kept: Collection[str],
    avoid: Collection[str] = (),
) -> list[Host]:
    """The hosts for a job with that need, the cheapest; or none. A job on several gets hosts of one site, as many as it
    takes, and those in `avoid` only if there are too few others."""
    if need.most_nodes > 1:
        order = {host.name: (host.name in avoid, place) for place, host in enumerate(allowed)}
        usable = [host for host in allowed if host.name not in kept and _fits(need, host, rooms)]
        for team in teams(usable, need):
            others = [host for host in team if host.name not in avoid]
            best = sorted(team if len(others) < need.nodes else others, key=lambda host: order[host.name])
            return best[: need.most_nodes if len(others) >= need.nodes else need.nodes]
        return []
    whole = allowed is kind.fitting
    for index in range(kind.position if whole else 0, len(allowed)):
        if allowed[index].name not in kept and _fits(need, allowed[index], rooms):
            return [allowed[index]]
        if whole:
            # Hosts only become fuller within a turn.
            kind.position = index + 1
    return []
