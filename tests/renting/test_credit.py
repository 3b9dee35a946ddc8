"""A prepaid account whose balance runs out: everything there is drained in time, and nothing new is begun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aquarat_pipeline.renting.alarms import alarms
from aquarat_pipeline.renting.money import Money
from tests.renting.test_demand import ReadyHosts
from tests.renting.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.cloud.capabilities = replace(world.cloud.capabilities, balance=True)
    world.cloud.credit = Money.dollars(100)
    world.hosts = ReadyHosts(world.ledger)
    world.keeper = world.started()
    return world


def states(world: World) -> list[str]:
    return sorted(rental.state for rental in world.rentals())


def test_two_low_balances_in_a_row_drain_everything_of_the_account(world: World) -> None:
    busy = world.order(hours=5, managed=True)
    world.order(hours=5)
    world.run(lambda: states(world) == ["ready", "ready"])
    assert isinstance(world.hosts, ReadyHosts)
    world.hosts.runs[busy.id] = {"run": 1}
    world.cloud.add("of somebody else")
    world.cloud.foreign.add("i-2")
    # Three hosts at $1.29 use $1.94 in half an hour.
    world.cloud.credit = Money.cents(194)
    for _ in range(20):
        world.turn()
    assert states(world) == ["ready", "ready"] and not alarms(world.rentals(), world.now())
    world.cloud.credit = Money.cents(193)
    began = world.now()
    world.run(lambda: "draining" in states(world))
    assert 60 <= world.now() - began <= 200, "one look is not enough"
    (alarm, *_) = alarms(world.rentals(), world.now())
    assert "the balance of lambda ($1.93) only lasts for 30 min at $3.87 an hour: add credit" in alarm
    assert any(note.endswith("what runs there is drained; add credit") for note in world.notes)
    world.run(world.settled)
    assert world.now() - began <= 1800, "all ended before the balance did"
    assert "i-2" not in world.cloud.terminated


def test_one_strange_answer_drains_nothing(world: World) -> None:
    world.order(hours=1, managed=True)
    world.run(lambda: states(world) == ["ready"])
    assert isinstance(world.hosts, ReadyHosts)
    world.hosts.runs[world.only().id] = {"run": 1}
    for micros in (0, 50_000_000, -1, 50_000_000):
        world.cloud.credit = Money(micros)
        for _ in range(7):
            world.turn()
    assert not world.only().end_asked


def test_balances_are_looked_at_once_a_minute(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def balance() -> Money:
        asked.append(world.now())
        return Money.dollars(100)

    monkeypatch.setattr(world.cloud, "balance", balance)
    world.order(hours=1, managed=True)
    world.run(lambda: states(world) == ["ready"])
    asked.clear()
    for _ in range(60):
        world.turn()
    assert 0 < len(asked) <= 10
