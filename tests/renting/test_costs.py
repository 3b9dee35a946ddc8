"""Costs: as the provider bills, and never lost between parts."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest

from aquarat_pipeline.renting import costs
from aquarat_pipeline.renting.alarms import alarms
from aquarat_pipeline.renting.money import ZERO, Money
from aquarat_pipeline.renting.rental import Rental, State
from tests.renting.world import START, World

LATER = START + 10 * 86400


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def lived(world: World, seconds: float, price: int = 1_290_000) -> Rental:
    """A rental that was asked for at START and proved to have ended `seconds` later."""
    world.seconds = START
    rental = world.order(hours=24)
    rental = world.ledger.append(rental, "asking", START)
    rental = world.ledger.append(rental, "granted", START + 1, instance_id="i-1", price_micros=price)
    rental = world.ledger.append(rental, "ending", START + seconds - 1)
    return world.ledger.append(rental, "gone", START + seconds + 90, ended=START + seconds)


def test_the_worked_example(world: World) -> None:
    """37 min 20 s at 129 cents an hour, in minutes that are rounded up: 38 * 129 / 60 = 81.7 cents."""
    assert costs.accrued(lived(world, 37 * 60 + 20), LATER) == Money.dollars("0.817")


def test_nothing_is_owed_without_an_instance(world: World) -> None:
    rental = world.ledger.append(world.order(), "asking", START)
    for state in ("unclear", "absent"):
        assert costs.accrued(rental, LATER) == ZERO
        rental = world.ledger.append(rental, state, START + 400)
    assert costs.committed(rental, LATER) == ZERO


@pytest.mark.parametrize("state", ["intended", "asking", "unclear"])
def test_what_may_exist_is_promised_at_its_highest_price(world: World, state: State) -> None:
    rental = world.order(hours=1, most=2)
    for step in ("asking", "unclear"):
        if rental.state != state:
            rental = world.ledger.append(rental, step, START)
    assert costs.committed(rental, START) == Money.cents(129) * 2


def test_promised_and_spent_make_the_whole_at_any_time(world: World) -> None:
    rental = world.ledger.append(world.order(hours=2), "asking", START)
    rental = world.ledger.append(rental, "granted", START, instance_id="i-1", price_micros=1_000_001)
    for at in (START, START + 0.5, START + 59, START + 3601, START + 7200):
        assert costs.accrued(rental, at) + costs.committed(rental, at) == Money(2 * 1_000_001)
    assert costs.accrued(rental, START + 7201) == Money(ceil(Fraction(121 * 1_000_001, 60)))


def test_where_billing_begins_when_it_runs(world: World) -> None:
    rental = world.ledger.append(world.order(hours=5), "asking", START)
    rental = rental.of(rental.order.model_copy(update={"billing_starts": "running"}), rental.events)
    rental = world.ledger.append(rental, "granted", START, instance_id="i-1", price_micros=1_000_000)
    assert costs.begin(rental) == START
    rental = world.ledger.append(rental, "booting", START + 130, began=START + 120)
    assert costs.begin(rental) == START + 120


def test_the_highest_price_counts(world: World) -> None:
    rental = world.ledger.append(world.order(hours=5), "asking", START)
    rental = world.ledger.append(rental, "granted", START, instance_id="i-1", price_micros=2_000_000)
    rental = world.ledger.append(rental, "booting", START, price_micros=1_000_000)
    assert costs.accrued(rental, START + 3600) == Money.dollars(2)


def test_the_parts_make_the_whole_to_the_micro_dollar(world: World) -> None:
    for seed in range(200):
        chance = random.Random(seed)
        price = chance.randrange(50_000, 40_000_000)
        world.seconds = START
        rental = world.order(hours=24, run=chance.choice([None, "r0"]))
        rental = world.ledger.append(rental, "asking", START)
        rental = world.ledger.append(rental, "granted", START, instance_id="i-1", price_micros=price)
        rental = world.ledger.append(rental, "booting", START)
        at = START
        for _ in range(chance.randrange(6)):
            at += chance.choice([0.0, chance.random() * 5000])
            runs = {f"r{n}": chance.randrange(0, 9) for n in range(chance.randrange(4))}
            rental = world.ledger.append(rental, "booting", at, runs=runs)
        until = START + chance.random() * 30_000
        whole = costs.accrued(rental, until)
        assert sum(part.micros for part in costs.split(rental, until).values()) == whole.micros
        days = costs.by_day(rental, 0.0, until)
        assert sum(part.micros for _, part in days) == whole.micros
        assert all(part >= ZERO for _, part in days)


def test_time_belongs_to_who_uses_it(world: World) -> None:
    rental = world.ledger.append(world.order(hours=24), "asking", START)
    rental = world.ledger.append(rental, "granted", START, instance_id="i-1", price_micros=3_600_000)
    rental = world.ledger.append(rental, "booting", START + 600, runs={"a": 1, "b": 3})
    rental = world.ledger.append(rental, "booting", START + 1000, runs={"b": 3})
    rental = world.ledger.append(rental, "booting", START + 1200, runs={})
    shares = costs.split(rental, START + 1800)
    assert shares == {"a": Money(100_000), "b": Money(500_000), "overhead": Money(1_200_000)}


def test_days_are_those_of_utc(world: World) -> None:
    assert datetime.fromtimestamp(START, UTC).strftime("%Y-%m-%d %H:%M") == "2026-11-30 00:53"
    rental = lived(world, 24 * 3600)
    midnight = START + 23 * 3600 + 6 * 60 + 40
    # Of the 1,440 minutes, the one in which the day ends was begun before.
    assert costs.by_day(rental, 0.0, LATER) == [
        ("2026-11-30", Money(1_387 * 21_500)),
        ("2026-12-01", Money(53 * 21_500)),
    ]
    assert costs.between(rental, 0.0, midnight) == Money(1_387 * 21_500)


def test_alarms_say_what_costs_and_what_to_do(world: World) -> None:
    rental = world.ledger.append(world.order(), "asking", START)
    rental = world.ledger.append(rental, "granted", START, instance_id="i-9")
    assert not alarms([rental], START + 3000)
    rental = world.ledger.append(rental, "ending", START)
    rental = world.ledger.append(rental, "ending", START + 1, "401", answer="unauthorized")
    assert not alarms([rental], START + 290)
    (warning,) = alarms([rental], START + 310)
    assert "5 min ago (unauthorized: 401)" in warning and "$1.29 an hour" in warning and "dashboard" not in warning
    (error,) = alarms([rental], START + 901)
    assert "end instance i-9 of lambda in the dashboard of Lambda" in error
