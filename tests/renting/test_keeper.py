"""Every rental ends, and is known to, whatever providers answer and wherever the keeper is killed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from aquarat_pipeline.renting import names
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.money import ZERO, Money, bill
from tests.renting.small_cloud import A10, RentFault, SmallCloud
from tests.renting.world import START, Points, World, killed_at_points


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def states(world: World) -> list[str]:
    return [state for state, _ in itertools.groupby(event.state for event in world.only().events)]


def slack(seconds: float) -> Money:
    """What so much time costs at most."""
    return bill(A10.price, seconds, 60)


def test_from_order_to_proof(world: World) -> None:
    world.order(hours=1)
    world.run(world.settled)
    assert states(world) == ["asking", "granted", "booting", "ready", "ending", "gone"]
    world.check()
    rental = world.only()
    assert rental.address == "ubuntu@203.0.113.7:22"
    assert world.cloud.billed() <= world.cost() <= world.cloud.billed() + slack(60)
    assert len(world.cloud.rents) == 1 and START + 3600 <= world.seconds < START + 3600 + 120


@pytest.mark.parametrize("how", ["now", "drain"])
def test_it_ends_when_somebody_asks_for_it(world: World, how: str) -> None:
    world.order(hours=5)
    world.run(lambda: world.only().state == "ready")
    world.ledger.append(world.only(), "ready", world.now(), "please", end_asked=how)
    world.run(world.settled, 300)
    world.check()


def test_an_order_that_is_cancelled_in_time_is_never_sent(world: World) -> None:
    rental = world.order()
    world.ledger.append(rental, "intended", world.now(), "", end_asked="now")
    world.run(world.settled, 60)
    assert states(world) == ["intended", "refused"] and not world.cloud.rents


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        ("made, unknown", ["asking", "unclear", "granted", "booting", "ready", "ending", "gone"]),
        ("made, unknown with id", ["asking", "granted", "booting", "ready", "ending", "gone"]),
        ("late", ["asking", "unclear", "granted", "booting", "ready", "ending", "gone"]),
        ("not made, unknown", ["asking", "unclear", "absent"]),
        ("capacity", ["asking", "refused"]),
        ("quota", ["asking", "refused"]),
        ("ghost", ["asking", "granted", "ending", "gone"]),
        ("dear", ["asking", "granted", "booting", "ending", "gone"]),
        ("nameless", ["asking", "granted", "booting", "ending", "gone"]),
    ],
)
def test_what_a_rent_is_answered(world: World, fault: RentFault, path: list[str]) -> None:
    world.cloud.rent_fault, world.cloud.lag = fault, 90
    world.order()
    world.run(world.settled)
    assert states(world) == path
    world.check()
    if fault in ("dear", "nameless"):
        assert world.seconds < START + 400, "an unfit host ends soon"


def test_of_two_with_one_name_one_ends_at_once(world: World) -> None:
    world.cloud.rent_fault = "made twice"
    world.order()
    world.run(lambda: world.only().state == "ready")
    assert len(world.cloud.alive()) == 1 and world.cloud.terminated == ["i-1"]
    world.run(world.settled)
    world.check()


def test_a_double_ends_although_the_first_is_gone(world: World) -> None:
    world.cloud.rent_fault, world.cloud.deaf = "made twice", 3
    world.order(hours=0.1)
    world.run(world.settled)
    world.check()


def test_one_that_is_listed_after_all_must_end(world: World) -> None:
    world.cloud.rent_fault = "not made, unknown"
    rental = world.order()
    world.run(lambda: world.only().state == "absent")
    world.cloud.add(rental.name)
    world.turn(60)
    world.turn()
    assert world.only().state == "ending"
    world.run(world.settled)
    world.check()
    world.cloud.add(rental.name)
    world.run(lambda: world.only().state == "ending", 120)
    world.run(world.settled)
    world.check()


LIST_FAULTS: dict[str, Callable[[float], str]] = {
    "an hour's outage": lambda at: "down" if START + 1800 < at < START + 5400 else "",
    "every second list fails": lambda at: "down" if int(at / 10) % 2 else "",
    "incomplete while it ends": lambda at: "incomplete" if START + 3600 < at < START + 4200 else "",
    "the key is revoked for an hour": lambda at: "unauthorized" if START + 200 < at < START + 3800 else "",
}
TERMINATE_FAULTS: dict[str, Callable[[float], str]] = {
    "fails for six hours": lambda at: "down" if at < START + 7 * 3600 else "",
    "works but answers 500": lambda _: "done but down",
    "is refused while booting": lambda at: "refused" if at < START + 4000 else "",
    "says 404 of a living one": lambda at: "gone" if at < START + 4000 else "",
    "has no key for a while": lambda at: "unauthorized" if at < START + 5000 else "",
}


@pytest.mark.parametrize("fault", LIST_FAULTS)
def test_lists_that_fail_prove_nothing(world: World, fault: str) -> None:
    world.cloud.list_fault = LIST_FAULTS[fault]
    world.order(hours=1)
    world.run(world.settled)
    world.check()
    assert world.cloud.billed() <= world.cost()


@pytest.mark.parametrize("fault", TERMINATE_FAULTS)
def test_ending_lasts_until_it_is_proved(world: World, fault: str) -> None:
    world.cloud.terminate_fault, world.cloud.listed_after_end = TERMINATE_FAULTS[fault], 0
    world.order(hours=1)
    world.run(world.settled, 9 * 3600)
    world.check()
    assert world.cloud.billed() <= world.cost()


@pytest.mark.parametrize("listed_after_end", [0, 600])
def test_accepted_requests_without_effect_are_repeated(world: World, listed_after_end: float) -> None:
    world.cloud.deaf, world.cloud.listed_after_end = 5, listed_after_end
    world.order(hours=0.5)
    world.run(world.settled)
    world.check()
    assert len(world.cloud.terminated) == 6
    # 30 s, 1, 2, 4 and 5 minutes lie between the six.
    assert world.cloud.machines[0].ended == pytest.approx(START + 1800 + 750 + 20, abs=61)


def test_a_host_that_never_boots_is_ended(world: World) -> None:
    world.cloud.boot = 1e9
    world.order(hours=8)
    world.run(world.settled)
    world.check()
    assert START + 1200 <= world.seconds < START + 1400 and "did not boot" in str(world.only().events)


def test_a_host_that_the_provider_takes_away_is_gone(world: World) -> None:
    world.order(hours=8)
    world.run(lambda: world.only().state == "ready")
    world.cloud.machines[0].ended, world.cloud.listed_after_end = world.now(), 0
    world.run(world.settled, 900)
    world.check()


def test_status_words_of_a_newer_provider_are_neither_ready_nor_gone(world: World) -> None:
    world.cloud.status = "unknown"
    world.order(hours=0.1)
    world.run(world.settled)
    assert "ready" not in states(world)
    world.check()


def test_strangers_are_left_alone_and_lost_ones_of_ours_end_in_time(world: World) -> None:
    ours = world.ledger.installation()
    other = "zzzzzz" if ours != "zzzzzz" else "yyyyyy"
    past = int(world.now()) + 600
    strangers = [f"aq-{other}-abcdefgh-{'0' * 6}", "aquarat-train", None, f"aq-{ours}1-abcdefgh-000000", ""]
    world.cloud.foreign = {world.cloud.add(name).id for name in strangers}
    lost = world.cloud.add(str(names.RentalName(ours, "abcdefgh", past)))
    rental = world.order(hours=0.5)
    world.turn()
    assert not world.cloud.rents and "not in the ledger" in world.notes[0] and rental.name in world.notes[1]
    world.run(lambda: not lost.alive_at(world.now()))
    assert past + 300 < world.now() < past + 420
    world.order(hours=0.2)
    world.run(world.settled)
    world.check()
    assert len(world.cloud.rents) == 1, "the first order had become too old"


def test_caps_hold_at_every_request(world: World) -> None:
    world.config = RentConfig.model_validate(
        {"accounts": {"lambda": {"cloud": "lambda", "per_day": "4.00", "max_rentals": 9}}}
    )
    for _ in range(4):
        world.order(hours=1)
        world.turn()
    world.run(world.settled)
    world.check()
    refused = [rental for rental in world.rentals() if rental.state == "refused"]
    assert len(world.cloud.rents) == 3 and "$4.00 a day" in refused[0].events[-1].why
    assert world.cost() <= Money.dollars(4)


def test_a_damaged_ledger_rents_nothing_and_keeps_ending(world: World) -> None:
    first = world.order(hours=0.5)
    world.run(lambda: world.only().state == "ready")
    other = world.order(hours=1)
    broken = world.order(hours=1)
    path = world.ledger.folder(broken.id) / "order.json"
    path.unlink()
    path.write_text("{")
    world.seconds += 1
    world.run(lambda: world.ledger.read(first.id).final)
    assert world.ledger.read(other.id).state == "refused" and len(world.cloud.rents) == 1
    assert not world.cloud.alive()


def test_two_keepers_send_an_order_once(world: World) -> None:
    second = world.started()
    for _ in range(5):
        world.order(hours=0.3)
    for _ in range(400):
        world.turn()
        second.turn()
    world.check()
    assert world.cloud.rents


@pytest.mark.parametrize("jump", [3600, -3600, 30 * 86400])
def test_a_clock_that_is_set_ends_it_at_most_by_that_much_later(world: World, jump: float) -> None:
    world.order(hours=2)
    world.run(lambda: world.only().state == "ready")
    world.seconds += jump
    world.run(world.settled)
    world.check()


def _fault(fault: RentFault) -> Callable[[SmallCloud], None]:
    def show(cloud: SmallCloud) -> None:
        cloud.rent_fault = fault
        cloud.lag = 60

    return show


def _deaf(cloud: SmallCloud) -> None:
    cloud.deaf, cloud.listed_after_end = 2, 0


def _broken(cloud: SmallCloud) -> None:
    cloud.terminate_fault = lambda at: "done but down" if int(at) % 20 else "down"
    cloud.list_fault = lambda at: ("down", "", "incomplete", "")[int(at / 20) % 4]


FAULTS: dict[str, Callable[[SmallCloud], None]] = {
    **{f"rent: {fault or 'none'}": _fault(fault) for fault in get_args(RentFault)},
    "terminate without effect": _deaf,
    "lists and terminates fail": _broken,
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_killed_at_every_point(tmp_path: Path, fault: str) -> None:
    """The keeper is killed at the first point of its work, in another world at the second, and so on to the last."""
    last, kill_at = False, 0
    for kill_at in itertools.count(1):
        world = World(tmp_path / str(kill_at), points=Points(kill_at))
        FAULTS[fault](world.cloud)
        with killed_at_points(world.points):
            try:
                world.order(hours=0.2)
            except BaseException:
                assert not world.rentals() or world.only().state == "intended"
            world.run(world.settled)
        world.check()
        assert len(world.cloud.rents) <= 1
        assert world.cloud.billed() <= world.cost() + _unknowable(world), "a cost was lost"
        last = world.points.passed < kill_at
        if last:
            break
    assert last and kill_at > 12


def _unknowable(world: World) -> Money:
    """What the ledger cannot know: of instances beyond the first of a name, and of prices that no list ever told."""
    total, seen = ZERO, set[str]()
    prices = {rental.name: rental.hourly for rental in world.rentals()}
    for machine in world.cloud.ours():
        until = (machine.ended or world.now()) - machine.made
        if machine.name in seen:
            total += bill(machine.price, until, 60)
        elif machine.name is not None and machine.price > prices[machine.name]:
            total += bill(machine.price, until, 60) - bill(prices[machine.name], until, 60)
        seen.add(machine.name or "")
    return total


SEQUENCES = 300


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_random_sequences_leak_nothing(tmp_path: Path, part: int) -> None:
    """Orders, kills, faults, outages and jumps of the clock by chance: all ends, within bounds."""
    for seed in range(part, SEQUENCES, 6):
        _walk(World(tmp_path / str(seed)), random.Random(seed))


def _walk(world: World, chance: random.Random) -> None:
    world.cloud.foreign = {world.cloud.add("aquarat-train").id, world.cloud.add(None).id}
    world.cloud.lag = chance.choice([0, 30, 120])
    world.cloud.listed_after_end = chance.choice([0, 0, 60, 600])
    world.config = RentConfig.model_validate({"accounts": {"lambda": {"cloud": "lambda", "max_rentals": 3}}})
    faults: dict[str, Any] = {"list": "", "terminate": ""}
    world.cloud.list_fault = lambda _: faults["list"]
    world.cloud.terminate_fault = lambda _: faults["terminate"]
    with killed_at_points(world.points):
        for _ in range(200):
            if chance.random() < 0.03:
                _try_order(world, chance)
            if chance.random() < 0.1:
                world.points.kill_at = world.points.passed + chance.randrange(1, 9)
            if chance.random() < 0.1:
                faults["list"] = chance.choice(["", "", "down", "incomplete", "unauthorized"])
                faults["terminate"] = chance.choice(
                    ["", "", "down", "refused", "done but down", "gone", "unauthorized"]
                )
                world.cloud.deaf = chance.choice([0, 0, 0, 2])
            world.turn(chance.choice([10, 10, 10, 30, 300]))
            assert len(set(world.cloud.rents)) == len(world.cloud.rents)
            for machine in world.cloud.alive():
                name = names.parse(machine.name)
                known = {rental.name: rental for rental in world.rentals()}
                assert name is None or str(name) in known
        faults["list"] = faults["terminate"] = ""
        world.cloud.deaf = 0
        world.points.kill_at = None
        for machine in world.cloud.machines:
            machine.deaf = 0
        last = max((rental.order.last_end for rental in world.rentals()), default=0)
        began = world.seconds
        world.run(world.settled)
    world.check()
    for machine in world.cloud.ours():
        assert machine.ended is not None and machine.ended <= max(last, began) + 400, "it lived longer than its bound"
    assert world.cloud.billed() <= world.cost() + _unknowable(world)


def _try_order(world: World, chance: random.Random) -> None:
    world.cloud.rent_fault = chance.choice(get_args(RentFault)) if chance.random() < 0.5 else ""
    try:
        world.order(hours=chance.choice([0.1, 0.5, 1.0]))
    except BaseException as e:
        assert type(e).__name__ == "Kill"
