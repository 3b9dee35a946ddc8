"""Months of bad luck: orders, faults, kills, jumps of the clock, two keepers and people, all by chance."""

from __future__ import annotations

import random
from pathlib import Path

from aquarat_core.errors import UserError
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.names import parse
from aquarat_pipeline.renting.reaper import reap
from aquarat_pipeline.renting.requests import ask_end, extend
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Effect, Fault, Verb
from tests.renting.faults.control_host import KINDS, ControlHost
from tests.renting.faults.stage import NAME_BOUND, Facts, Stage, staged
from tests.renting.world import Kill, killed_at_points

STEPS = 120
FAULT_RATE = 0.2
FAULTS: dict[Verb, tuple[Effect, ...]] = {
    "rent": (
        "500", "504", "429", "cut", "html 200", "redirect", "no capacity", "quota", "then 500", "then 504", "then 429",
        "then cut", "then html", "then redirect", "then half an answer", "then broken json", "then twice", "ghost",
        "403 error code 1010",
    ),
    "list": ("500", "503", "429 with Retry-After", "cut", "html 200", "403 html", "redirect", "extra fields"),
    "terminate": ("500", "503", "429", "cut", "html 200", "then 500", "then cut", "then html", "without effect"),
    "keys": ("500", "cut"),
    "balance": ("500", "cut"),
}  # fmt: skip


def walk(seed: int, folder: Path, steps: int = STEPS) -> Facts:
    """One sequence. Fails if anything is alive after its bound, is unknown, or costs what the ledger does not know."""
    chance = random.Random(seed)
    with staged(KINDS[seed % len(KINDS)], folder) as stage:
        timing = Timing(
            boot=chance.choice([30, 180, 400]),
            ending=chance.choice([5, 30, 120]),
            list_lag=chance.choice([0, 0, 30, 120]),
            listed_after_end=chance.choice([0, 60, 600]),
            missing_when_young=chance.choice([0, 0, 30]),
        )
        faults = [Fault(verb, chance.choice(effects), chance=FAULT_RATE) for verb, effects in FAULTS.items()]
        chain = stage.chain(*faults, seed=seed, timing=timing)
        chain.config = RentConfig.model_validate({"accounts": {stage.kind: {"cloud": stage.kind, "max_rentals": 3}}})
        for name in ("their-host", "aq-zzzzzz-abcdefgh-000000"):
            chain.stranger(name)
        with killed_at_points(chain.points):
            _live(chain, chance, stage, steps)
            quiet = _make_quiet(chain)
            chain.settle(limit=8 * 3600, seconds=20)
        for machine in chain.ours():
            name, stopped = parse(machine.name), machine.stopped(chain.clock.now())
            end = name.end if name is not None else quiet
            bound = max(end + stage.slack_seconds, quiet) + NAME_BOUND + timing.ending
            assert stopped is not None and stopped <= bound, "an instance lived longer than its bound"
        return stage.check(late_seconds=None)


def _live(chain: ControlHost, chance: random.Random, stage: Stage, steps: int) -> None:
    other = chain.started()
    two = chance.random() < 0.3
    for _ in range(steps):
        if chance.random() < 0.05:
            _order(chain, chance)
        if chance.random() < 0.1:
            chain.points.kill_at = chain.points.passed + chance.randrange(1, 9)
        if chance.random() < 0.04:
            _ask(chain, chance)
        if chance.random() < 0.02:
            jump = chance.choice([-3000, -600, 60, 600, 3000])
            chain.offset += jump
            chain.forward += jump > 0
            stage.slack_seconds += abs(jump)
        if chance.random() < 0.1:
            # The second reaper's clock is right.
            reap(chain.cloud, [chain.ledger.installation()], chain.clock.now())
        chain.turn(chance.choice([10, 10, 10, 20, 60, 300]))
        if two:
            try:
                other.turn()
            except Kill:
                other = chain.started()
        known = {rental.name for rental in chain.rentals()}
        assert all(one.name in known for one in chain.alive()), "an instance that the ledger does not know"


def _order(chain: ControlHost, chance: random.Random) -> None:
    hours = chance.choice([0.3, 0.5, 1.0])
    try:
        chain.order(hours=hours, most=hours * chance.choice([1, 2]))
    except (Kill, UserError):
        return


def _ask(chain: ControlHost, chance: random.Random) -> None:
    """A person extends or ends a rental."""
    open_ = [one for one in chain.rentals() if not one.final]
    if not open_:
        return
    try:
        if chance.random() < 0.5:
            extend(chain.ledger, chance.choice(open_), chance.choice([0.2, 1.0]), chain.now())
        else:
            ask_end(chain.ledger, chance.choice(open_), chance.choice(["now", "drain"]), chain.now())
    except (Kill, UserError):
        return


def _make_quiet(chain: ControlHost) -> float:
    """From now on everything works; the time."""
    chain.fake.script.faults.clear()
    chain.points.kill_at = None
    chain.keeper = chain.started()
    return chain.clock.now()
