"""Fault cases of renting: where they are listed, where they play, and the bounds that hold for each.

A case is a function of a stage. It says which behaviours of a provider (rows of the reference of failures, 1 to 36) it
shows, and on which providers. After it, everything that `ControlHost.check` says must be true.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquarat_pipeline.renting.keeper import CALM_LIST_SECONDS, LIST_SECONDS, TURN_SECONDS
from aquarat_pipeline.renting.names import parse
from aquarat_pipeline.renting.reaper import GRACE_SECONDS
from aquarat_pipeline.renting.steps import LAST_RETRY_SECONDS
from tests.renting.fakes.clock import FakeClock
from tests.renting.fakes.machines import Machine
from tests.renting.fakes.script import Fault, Script
from tests.renting.fakes.server import FakeCloud
from tests.renting.faults.control_host import CANARIES, FAKES, KINDS, ControlHost, surroundings_of
from tests.renting.faults.scripted_hosts import ScriptedHosts
from tests.renting.world import Points

REAPER_SECONDS = 300.0
"""Between two passes of a reaper away from the control host, as its timer in docs/renting.md says."""
KEEPER_BOUND = CALM_LIST_SECONDS + LIST_SECONDS + 2 * TURN_SECONDS
"""Seconds from the time at which an instance is to end until it has been asked to, while keeper and provider work."""
RETRY_BOUND = LAST_RETRY_SECONDS + KEEPER_BOUND
"""The same after a time in which the provider did not obey."""
NAME_BOUND = GRACE_SECONDS + 2 * REAPER_SECONDS
"""Seconds after the end in its name at which no instance lives any more, whatever happened to its control host. To all
three comes the provider's own delay."""


@dataclass(frozen=True)
class Case:
    rows: tuple[int, ...]
    name: str
    kind: str
    play: Callable[[Stage], None]

    def __str__(self) -> str:
        return f"{self.rows[0]:02}-{self.name}-{self.kind}"


@dataclass
class Facts:
    """What a case cost."""

    idle: float = 0.0
    """Seconds that an instance ran on after it should have ended, beyond what the provider caused."""
    leaked: int = 0
    """Micro-dollars that the provider bills and the ledger does not know."""
    requests: int = 0


CASES: list[Case] = []


def case(
    *rows: int, kinds: Sequence[str] = KINDS, each: Sequence[Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Lists a function as a case of these rows on each of the providers, and with each of the values."""

    def listed(play: Callable[..., None]) -> Callable[..., None]:
        for kind in kinds:
            for value in each or (None,):
                shown = f"{play.__name__}-{value}".replace(" ", "_") if each else play.__name__
                acts = (lambda stage, value=value: play(stage, value)) if each else play
                CASES.append(Case(rows, shown, kind, acts))
        return play

    return listed


def short() -> list[Case]:
    """Each function once, on one provider: providers take turns."""
    chosen: dict[str, Case] = {}
    for one in CASES:
        key = one.name.partition("-")[0]
        others = [other.kind for other in CASES if other.name == one.name]
        wanted = others[len(chosen) % len(others)] if key not in chosen else None
        if wanted is not None:
            chosen[key] = next(other for other in CASES if other.name == one.name and other.kind == wanted)
    return list(chosen.values())


@dataclass
class Stage:
    kind: str
    folder: Path
    stack: ExitStack
    clock: FakeClock = field(default_factory=FakeClock)
    chains: list[ControlHost] = field(default_factory=list[ControlHost])
    slack_seconds: float = 0.0
    """By how much a clock was wrong."""
    allowed: float = 0.0
    """Seconds for which the provider itself kept instances running."""
    facts: Facts = field(default_factory=Facts)
    records: list[str] = field(default_factory=list[str])
    turn_seconds: float = 0.0
    """How long a turn took that a case measured."""

    def fake(self, *faults: Fault, seed: int = 0, **settings: Any) -> FakeCloud:
        made = FAKES[self.kind](self.clock, Script(list(faults), seed), **settings)
        return self.stack.enter_context(made.serve())

    def chain(self, *faults: Fault, points: Points | None = None, hosts: Any = None, **settings: Any) -> ControlHost:
        """A control host, with a provider of its own."""
        return self.beside(self.fake(*faults, **settings), points, hosts)

    def beside(self, fake: FakeCloud, points: Points | None = None, hosts: Any = None) -> ControlHost:
        """One more control host, on the same account of the same provider."""
        around = surroundings_of(self.folder, self.clock.now, self.clock.sleep)
        chain = ControlHost(
            self.folder / f"home-{len(self.chains)}", self.kind, fake, self.clock, around, points, hosts
        )
        self.chains.append(chain)
        return chain

    def hosts(self, **settings: Any) -> ScriptedHosts:
        return ScriptedHosts(self.clock.now, **settings)

    def check(self, late_seconds: float | None = 0.0) -> Facts:
        """After the play. `late_seconds` as `ControlHost.check` has it."""
        facts = self.facts
        for chain in self.chains:
            try:
                chain.check(self.slack_seconds, late_seconds)
            finally:
                facts.leaked += chain.leaked
            facts.requests = max(facts.requests, len(chain.fake.requests))
            for machine in chain.ours():
                facts.idle = max(facts.idle, _idle(chain, machine) - self.allowed)
        for secret in CANARIES:
            assert not any(secret in text for text in self.records), "a secret is in the log"
        assert facts.idle <= RETRY_BOUND or late_seconds is None, f"{facts.idle:.0f} s were paid for nothing"
        return facts


def _idle(chain: ControlHost, machine: Machine) -> float:
    """Seconds from when it was to end until it did, without the time that the provider takes to end it."""
    stopped = machine.stopped(chain.clock.now())
    assert stopped is not None
    rental = next((one for one in chain.rentals() if one.name == machine.name), None)
    name = parse(machine.name)
    due = [float(name.end)] if name is not None else []
    if rental is not None:
        due += [rental.end]
        due += [one.at for one in rental.events if one.state == "ending" or one.double_id == machine.id]
    return stopped - machine.timing.ending - min(due, default=stopped)


class _Kept(logging.Handler):
    def __init__(self, records: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(self.format(record))


@contextmanager
def staged(kind: str, folder: Path) -> Iterator[Stage]:
    """A stage, whose provider's servers end with the block. What is logged meanwhile is kept."""
    with ExitStack() as stack:
        stage = Stage(kind, folder, stack)
        handler = _Kept(stage.records)
        for name in ("aquarat_pipeline", "aquarat.keeper"):
            logging.getLogger(name).addHandler(handler)
            stack.callback(logging.getLogger(name).removeHandler, handler)
        yield stage


def play(one: Case, folder: Path) -> Facts:
    """Plays a case. Fails if anything is not as it must be."""
    with staged(one.kind, folder) as stage:
        one.play(stage)
        return stage.check()
