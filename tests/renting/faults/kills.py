"""The keeper is killed before and after every write and every request, and another goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from aquarat_pipeline.renting.keeper import LIST_SECONDS, TURN_SECONDS
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Effect, Fault, once
from tests.renting.faults.stage import Facts, staged
from tests.renting.world import Kill, Points, killed_at_points

ANSWERS: tuple[Effect | None, ...] = (None, "then 500", "504")
"""To the order: as it should be, made and not answered, neither made nor answered."""
SETTLED_WITHIN = 1500.0
"""Seconds of a killed keeper's world from the order to the proof, for a rental of six minutes."""


def killed_at(kill_at: int, kind: str, answer: Effect | None, folder: Path) -> tuple[Facts, int]:
    """What a kill at this point costs, and how many points there were."""
    faults: list[Fault] = [] if answer is None else [once("rent", answer)]
    with staged(kind, folder) as stage:
        chain = stage.chain(*faults, points=Points(kill_at), timing=Timing(boot=60, list_lag=20, ending=10))
        with killed_at_points(chain.points):
            with suppress(Kill):
                chain.order(hours=0.1)
            if chain.rentals():
                chain.settle(limit=SETTLED_WITHIN)
        assert len(chain.fake.machines) <= 1
        return stage.check(late_seconds=LIST_SECONDS + 2 * TURN_SECONDS), chain.points.passed


def killed_everywhere(
    kind: str, answer: Effect | None, folder: Path, every: Iterable[int] | None = None
) -> list[Facts]:
    """One life for each point at which the keeper can be killed, or for those of `every`."""
    found: list[Facts] = []
    for kill_at in every or itertools.count(1):
        facts, points = killed_at(kill_at, kind, answer, folder / f"{kind}-{answer}-{kill_at}")
        found.append(facts)
        if points < kill_at:
            break
    return found
