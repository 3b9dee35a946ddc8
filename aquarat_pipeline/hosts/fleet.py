"""What the allocator knows about hosts: which there are, what is taken of them, and which refuse jobs for now.

Nothing here asks a host. What is taken is known from the jobs of this control host, and from what hosts said when they
refused a job; that ends when the store says that those jobs have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aquarat_core.agent import processes
from aquarat_pipeline.hosts.inventory import Host, InventoryError, read_inventory
from aquarat_pipeline.hosts.occupancy import folder, parse_occupied
from aquarat_pipeline.hosts.queueing import HeldLease, Refusal
from aquarat_pipeline.hosts.records import Records
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.hosts.watching import Watcher
from aquarat_pipeline.workers import parked_runs

INVENTORY_SECONDS = 1.0
FOLLOWED_SECONDS = 5.0
"""Between two looks whether the jobs here are still followed."""
FIRST_REST, MAX_REST = 2.0, 60.0
"""Seconds for which a host that refused a job for another reason than its leases gets no other."""


@dataclass(slots=True)
class Room:
    """What is free on a host."""

    gpus: int
    jobs: int

    def has(self, gpus: int) -> bool:
        return self.jobs > 0 and self.gpus >= gpus

    def take(self, gpus: int, jobs: int = 1) -> None:
        self.gpus -= gpus
        self.jobs -= jobs


@dataclass(slots=True)
class _Rest:
    until: float
    seconds: float
    reason: str


@dataclass
class Fleet:
    """The hosts of the inventory. `refresh` first; then `rooms` has what is free."""

    home: Path
    now: Callable[[], float] = time.time
    watcher: Watcher = field(default_factory=Watcher)
    hosts: dict[str, Host] = field(default_factory=dict[str, Host])
    problem: str = ""
    """Why there is no usable inventory."""

    def __post_init__(self) -> None:
        self._jobs = Records(folder(self.home), parse_occupied, replaced=False)
        self._others: dict[str, dict[str, HeldLease]] = {}
        """By host and mark: leases of jobs that are not ours."""
        self._rests: dict[str, _Rest] = {}
        self._read = self._looked = float("-inf")

    def refresh(self, waiting: bool) -> bool:
        """Reads what has changed, and returns whether anything did. `waiting`: somebody waits for a host."""
        now = self.now()
        changed = bool(self._jobs.refresh())
        if now - self._read >= INVENTORY_SECONDS:
            self._read = now
            changed |= self._read_inventory()
        if waiting and now - self._looked >= FOLLOWED_SECONDS:
            self._looked = now
            changed |= self._look()
        for host in [name for name, rest in self._rests.items() if rest.until <= now < rest.until + MAX_REST]:
            # Kept for a while, because the next rest is longer.
            self._rests[host].until = float("-inf")
            changed = True
        return changed

    def rooms(self, granted: Mapping[str, Sequence[tuple[str, int]]]) -> dict[str, Room]:
        """What is free on every host that does not rest, by name. `granted`: hosts and GPUs of tickets with a grant."""
        awake = (host for host in self.hosts.values() if not self._rests_now(host.name))
        free = {host.name: Room(host.gpus, host.max_leases) for host in awake}
        for host, gpus, jobs in self._taken(granted):
            if host in free:
                free[host].take(gpus, jobs)
        return free

    def occupies(self, name: str) -> bool:
        """Whether the job with that ticket is recorded as started, or about to be."""
        return name in self._jobs.items

    def refused(self, host: str, refusal: Refusal, need: Requirement) -> None:
        """The host did not take a job. It rests unless its leases explain that."""
        if refusal.held is not None:
            ours = {mark for job in self._jobs.items.values() for mark in job.marks}
            self._others[host] = {lease.mark: lease for lease in refusal.held if lease.mark not in ours}
        there = self.hosts.get(host)
        if there is None:
            return
        room = self.rooms({}).get(host)
        if refusal.held is None or room is None or room.has(need.gpus_on(there)):
            last = self._rests.get(host)
            seconds = min(last.seconds * 1.5, MAX_REST) if last else FIRST_REST
            self._rests[host] = _Rest(self.now() + seconds, seconds, refusal.reason)

    def started(self, hosts: Iterable[str]) -> None:
        """They have taken a job: the next refusal is a first one again."""
        for host in hosts:
            self._rests.pop(host, None)

    def why_not(self, hosts: Sequence[str]) -> Iterator[str]:
        """Why those hosts are not free, as far as it is known."""
        users: dict[str, list[str]] = {host: [] for host in hosts}
        for job in self._jobs.items.values():
            for host in job.hosts:
                if host in users:
                    users[host].append(str(job))
        for host in hosts:
            reasons = [self._rests[host].reason] if self._rests_now(host) else users[host]
            if not reasons and self._others.get(host):
                reasons = ["in use by another control host"]
            yield f"{host}: {', '.join(reasons) or 'another job was first'}"

    def close(self) -> None:
        self.watcher.close()

    def _rests_now(self, host: str) -> bool:
        rest = self._rests.get(host)
        return rest is not None and rest.until > self.now()

    def _taken(self, granted: Mapping[str, Sequence[tuple[str, int]]]) -> Iterator[tuple[str, int, int]]:
        """Host, GPUs and places that count toward its `max_leases`, for everything that is known."""
        for job in self._jobs.items.values():
            for host, gpus in zip(job.hosts, job.gpus, strict=False):
                yield host, gpus, 1
        for name, hosts in granted.items():
            if name not in self._jobs.items:
                for host, gpus in hosts:
                    yield host, gpus, 1
        for host, leases in self._others.items():
            for lease in leases.values():
                yield host, lease.gpus, int(lease.counts)

    def _read_inventory(self) -> bool:
        try:
            found = {host.name: host for host in read_inventory(self.home).hosts}
            problem = ""
        except InventoryError as e:
            found, problem = {}, str(e)
        changed = found != self.hosts or problem != self.problem
        if changed:
            self.hosts, self.problem = found, problem
        return changed

    def _look(self) -> bool:
        """Forgets jobs that nobody here follows and that the store says are over."""
        asleep = parked_runs(self.home)
        awake = {name: job for name, job in self._jobs.items.items() if job.run not in asleep}
        unfollowed = {name: job for name, job in awake.items() if not processes.is_alive(job.process)}
        ours = [mark for job in unfollowed.values() for mark in job.marks]
        others = [mark for leases in self._others.values() for mark in leases]
        over = self.watcher.look([*ours, *others])
        if not over:
            return False
        for name, job in unfollowed.items():
            if over.issuperset(job.marks):
                self._jobs.remove(name)
        for leases in self._others.values():
            for mark in over & leases.keys():
                del leases[mark]
        return True
