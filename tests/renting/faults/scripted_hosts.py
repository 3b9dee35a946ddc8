"""Hosts whose state a test sets: what the keeper hears from them over ssh, without ssh.

The same ways are gone with real hosts in the end-to-end tests of renting; here every fault of a host meets every cloud.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aquarat_pipeline.renting.managed.hosting import Goal, Progress, Use
from aquarat_pipeline.renting.rental import Rental


@dataclass
class ScriptedHosts:
    """Times are seconds after the address became known; None for what never comes."""

    now: Callable[[], float]
    reachable_after: float | None = 30
    ready_after: float | None = 60
    """After it was found fit."""
    unfit: dict[Goal, str] = field(default_factory=dict[Goal, str])
    """Why a host never comes to a goal."""
    runs: dict[str, int] = field(default_factory=dict[str, int])
    """Runs at work on each host, with their GPUs."""
    silent_since: float | None = None
    stopped: bool = False
    """The jobs were asked to end, and did."""
    drained: list[str] = field(default_factory=list[str])
    forgotten: list[str] = field(default_factory=list[str])
    pinned: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By address: the rentals that were reached there."""

    def advance(self, rental: Rental, goal: Goal) -> Progress:
        assert rental.id not in self.forgotten, "a host that was given up is spoken to"
        assert rental.addressed is not None and rental.address is not None
        since = {"reachable": rental.addressed, "fit": rental.since, "ready": rental.since}[goal]
        wait = {"reachable": self.reachable_after, "fit": 0.0, "ready": self.ready_after}[goal]
        if wait is None or self.now() < since + wait:
            return Progress()
        if why := self.unfit.get(goal):
            return Progress(unfit=why)
        if goal == "reachable":
            self.pinned.setdefault(rental.address, []).append(rental.id)
        return Progress(done=True)

    def use(self, rental: Rental) -> Use:
        silent = 0.0 if self.silent_since is None else self.now() - self.silent_since
        return Use({} if self.stopped else dict(self.runs), silent)

    def drain(self, rental: Rental, why: str, stop: bool) -> bool:
        self.drained.append(rental.id)
        self.stopped = self.stopped or stop
        return self.stopped or not self.runs

    def forget(self, rental: Rental) -> None:
        self.forgotten.append(rental.id)
