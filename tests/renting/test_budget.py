"""Caps: what is spent and promised never goes beyond them, and what is said when it would."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aquarat_pipeline.renting import budget, costs
from aquarat_pipeline.renting.clouds.model import Offer
from aquarat_pipeline.renting.config import AccountSettings, Pool
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.rental import OfferRecord, Rental, RentalOrder
from tests.renting.small_cloud import A10
from tests.renting.world import START, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def caps(**given: Any) -> AccountSettings:
    return AccountSettings.model_validate({"cloud": "lambda", "max_rentals": 9, **given})


def pool(**given: Any) -> Pool:
    return Pool.model_validate({"from": [{"account": "lambda"}], "max_price_per_hour": 2, "hours": 1, **given})


def order(world: World, **changed: Any) -> RentalOrder:
    return world.order(**changed).order


def asked(world: World, rental: Rental) -> Rental:
    return world.ledger.append(rental, "asking", world.now())


def test_each_cap_alone(world: World) -> None:
    mine = order(world, hours=2, pool="p", run="r")
    others = [world.order(hours=1, pool="p", run="r")]
    now = START
    assert budget.why_not(mine, others, now, caps(), pool()) is None
    for why, settings, of_pool, more in (
        ("allows 1 rentals of lambda at a time, and 1 are open", caps(max_rentals=1), pool(), {}),
        ("allows 1 GPUs of lambda at a time, and this would make 2", caps(max_gpus=1), pool(), {}),
        ("allows 1 rentals of the pool p, and 1 are open", caps(), pool(max_rentals=1), {}),
        ("$3.86 a day from lambda are allowed, $0.00 are spent and $1.29 promised", caps(per_day="3.86"), pool(), {}),
        ("$3.86 a month from lambda are allowed", caps(per_month="3.86"), pool(), {}),
        ("$3.86 for run r are allowed", caps(), pool(per_run="3.86"), {}),
        ("$3.86 for run r are allowed", caps(), pool(), {"run_budget": Money.dollars("3.86")}),
        ("a balance of $3.86, of which $1.29 are promised", caps(), pool(), {"balance": Money.dollars("3.86")}),
        ("costs $1.29 an hour for 1 GPUs, and $1.28 per GPU-hour", caps(), pool(max_gpu_price="1.28"), {}),
    ):
        said = budget.why_not(mine, others, now, settings, of_pool, **more)
        assert said is not None and why in said, said
    just = {"per_day": "3.87", "per_month": "3.87", "max_rentals": 2, "max_gpus": 2}
    enough = pool(per_run="3.87", max_rentals=2, max_gpu_price="1.29")
    assert budget.why_not(mine, others, now, caps(**just), enough, Money.dollars("3.87")) is None


def test_prices_that_cannot_be_right_are_refused(world: World) -> None:
    """Cents for dollars, and a GPU's price for eight."""
    for micros, gpus in ((129_000_000, 1), (12_900, 1), (300_000, 8)):
        offer = Offer("lambda", "x", "x", "r", gpus, "A10", Money(micros), "yes")
        made = order(world).model_copy(update={"offer": OfferRecord.of(offer), "max_price_micros": 10**9})
        assert "the provider's unit of price may have changed" in (budget.why_not(made, [], START, caps()) or "")


def test_a_price_above_the_orders_is_refused(world: World) -> None:
    made = order(world).model_copy(update={"max_price_micros": A10.price.micros - 1})
    assert "costs $1.29 an hour, and $1.29 are allowed" in (budget.why_not(made, [], START, caps()) or "")


def test_unclear_ones_count_and_refused_ones_do_not(world: World) -> None:
    mine = order(world, hours=1)
    unclear = world.ledger.append(asked(world, world.order(hours=1)), "unclear", START)
    assert budget.why_not(mine, [unclear], START, caps(per_day=2)) is not None
    refused = world.ledger.append(asked(world, world.order(hours=1)), "refused", START)
    assert budget.why_not(mine, [refused], START, caps(per_day=2)) is None


def test_another_accounts_money_is_another_matter(world: World) -> None:
    mine, other = order(world, hours=1), world.order(hours=9)
    moved = other.order.account.model_copy(update={"name": "second", "key_variable": "SECOND_KEY"})
    other = Rental.of(other.order.model_copy(update={"account": moved}), [])
    assert budget.why_not(mine, [other], START, caps(per_day=2)) is None


def test_a_new_day_and_a_new_month_begin_in_utc(world: World) -> None:
    rental = asked(world, world.order(hours=1))
    rental = world.ledger.append(rental, "granted", START, instance_id="i-1")
    rental = world.ledger.append(rental, "ending", START + 3600)
    rental = world.ledger.append(rental, "gone", START + 3600, ended=START + 3600)
    assert datetime.fromtimestamp(START, UTC).day == 30
    today, tomorrow = START + 22 * 3600, START + 24 * 3600
    for now, free in ((today, False), (tomorrow, True)):
        world.seconds = now
        mine = order(world, hours=1)
        for cap in ("per_day", "per_month"):
            assert (budget.why_not(mine, [rental], now, caps(**{cap: 2})) is None) is free


def test_spent_and_promised_stay_within_caps_whatever_happens(world: World) -> None:
    """Orders by chance, for as long as the caps allow: the sum is never beyond them, also later."""
    for seed in range(60):
        chance = random.Random(seed)
        settings = caps(per_day=chance.choice([5, 10, 30]), per_month=60)
        rentals: list[Rental] = []
        now = START
        for _ in range(30):
            now += chance.random() * 7200
            world.seconds = now
            made = world.order(hours=chance.choice([0.5, 1, 3]))
            if budget.why_not(made.order, rentals, now, settings) is None:
                rental = world.ledger.append(made, "asking", now)
                if chance.random() < 0.8:
                    price = int(A10.price.micros * chance.choice([0.5, 1, 1]))
                    rental = world.ledger.append(rental, "granted", now, instance_id="i", price_micros=price)
                rentals.append(rental)
            elif rentals and rentals[-1].state == "granted":
                over = min(now, float(rentals[-1].order.last_end))
                ending = world.ledger.append(rentals[-1], "ending", over)
                rentals[-1] = world.ledger.append(ending, "gone", now, ended=over)
            rentals = [_in_time(world, rental, now) for rental in rentals]
            held = budget.position(rentals, budget.day(now), now)
            assert settings.per_day is not None and held.total <= settings.per_day
            whole = sum(costs.accrued(rental, now + 9e6).micros for rental in rentals if rental.final)
            assert settings.per_month is not None and Money(whole) <= settings.per_month


def _in_time(world: World, rental: Rental, now: float) -> Rental:
    """Every rental ends at its end."""
    last = rental.order.last_end
    if rental.state == "granted" and now >= last:
        return world.ledger.append(world.ledger.append(rental, "ending", last), "gone", now, ended=last)
    if rental.state == "asking" and now >= last:
        return world.ledger.append(world.ledger.append(rental, "unclear", last), "absent", now)
    return rental
