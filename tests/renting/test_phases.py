"""What a rental does in words, what it is in the inventory, and how long an offer rests after an unfit host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aquarat_pipeline.renting.clouds.model import Endpoint
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.managed import host_keys
from aquarat_pipeline.renting.managed.hosting import Goal, Progress, Use
from aquarat_pipeline.renting.managed.records import expires, host_of, job_settings, name_of
from aquarat_pipeline.renting.ordering.resting import resting
from aquarat_pipeline.renting.phases import phase
from aquarat_pipeline.renting.rental import Rental
from tests.renting.small_cloud import A10
from tests.renting.world import World

POOL = "H 100!"


def config(pool: Any, *names: str) -> RentConfig:
    """With pools of these names."""
    given = {"from": [{"account": "lambda"}], "max_price_per_hour": 2, "hours": 8, **pool}
    return RentConfig.model_validate(
        {"accounts": {"lambda": {"cloud": "lambda"}}, "pools": dict.fromkeys(names, given)}
    )


class Scripted:
    """Hosts that come as far as they are told."""

    def __init__(self) -> None:
        self.goals: list[Goal] = []
        self.progress = Progress()
        self.used = Use({}, 0.0)
        self.empty = False
        self.forgotten: list[str] = []

    def advance(self, rental: Rental, goal: Goal) -> Progress:
        return Progress(done=True, why=f"{goal} at last") if goal in self.goals else self.progress

    def use(self, rental: Rental) -> Use:
        return self.used

    def drain(self, rental: Rental, why: str, stop: bool) -> bool:
        return self.empty

    def forget(self, rental: Rental) -> None:
        self.forgotten.append(rental.state)


@pytest.fixture
def hosts() -> Scripted:
    return Scripted()


@pytest.fixture
def world(tmp_path: Path, hosts: Scripted) -> World:
    world = World(tmp_path, hosts=hosts, config=config({}, POOL))
    world.cloud.endpoint = Endpoint("203.0.113.7", 2222, "ubuntu", "10.0.0.7")
    return world


def managed(world: World, **more: Any) -> Rental:
    return world.order(hours=8, managed=True, pool=POOL, **more)


def words(world: World, seconds: float = 0) -> str:
    return phase(world.only(), world.now() + seconds)


def test_each_phase_has_its_words(world: World, hosts: Scripted) -> None:
    managed(world)
    assert words(world) == "not asked for yet, 0 min"
    world.turn()
    assert words(world, 170) == "booting 3 min"
    world.run(lambda: world.only().address is not None)
    assert words(world, 60) == "connecting 1 min"
    for goal, said in (("reachable", "examined, 2 min"), ("fit", "preparing 2 min"), ("ready", "ready, idle 2 min")):
        hosts.goals.append(goal)  # type: ignore[arg-type]
        world.run(lambda goal=goal: world.only().state == goal)
        assert words(world, 120) == said
        assert world.only().events[-1].why == f"{goal} at last"
    hosts.used = Use({"a": 1}, 0.0)
    world.turn()
    assert words(world) == "ready, 1 run"
    world.ledger.append(world.only(), "ready", world.now(), end_asked="drain")
    world.turn()
    assert words(world, 60) == "draining 1 min"
    hosts.empty = True
    world.run(world.settled)
    assert words(world) == "gone" and hosts.forgotten == ["draining"]


def test_a_host_is_idle_only_by_a_look_that_is_young_enough(world: World, hosts: Scripted) -> None:
    hosts.goals = ["reachable", "fit", "ready"]
    managed(world)
    world.run(lambda: world.only().state == "ready")
    due = world.only().idle_end
    hosts.used = Use({}, 0.0, looked=due - 1)
    world.seconds = due + 5
    world.turn()
    assert world.only().state == "ready", "a job may have begun since"
    hosts.used = Use({"a": 8}, 0.0, looked=due + 6)
    world.turn()
    assert world.only().state == "ready" and world.only().runs == {"a": 8}
    hosts.used = Use({}, 0.0, looked=world.now())
    world.turn()
    due = world.only().idle_end
    hosts.used = Use({}, 0.0, looked=due)
    world.seconds = due
    world.turn()
    assert world.only().state == "draining"


@pytest.mark.parametrize("until", ["reachable", "fit", "ready"])
def test_what_keeps_a_host_too_long_is_said_at_its_end(world: World, hosts: Scripted, until: Goal) -> None:
    order: list[Goal] = ["reachable", "fit", "ready"]
    hosts.goals = order[: order.index(until)]
    hosts.progress = Progress(why="it thinks")
    managed(world)
    world.run(lambda: world.only().state == "ending")
    unfit = world.only().unfit
    assert unfit is not None and unfit.why == f"unfit: it was not {until} in time: it thinks"
    assert len(hosts.forgotten) == 1


@pytest.mark.parametrize("state", ["reachable", "fit", "ready", "draining"])
@pytest.mark.parametrize("how", ["time", "now", "provider", "price"])
def test_the_hosts_forget_it_however_it_ends(world: World, hosts: Scripted, state: str, how: str) -> None:
    hosts.goals = ["reachable", "fit", "ready"]
    managed(world)
    world.run(lambda: world.only().state == (state if state != "draining" else "ready"))
    if state == "draining":
        world.ledger.append(world.only(), "ready", world.now(), end_asked="drain")
        world.turn()
    hosts.goals = []
    match how:
        case "time":
            world.seconds = world.only().end
        case "now":
            world.ledger.append(world.only(), world.only().state, world.now(), end_asked="now")
        case "provider":
            world.cloud.machines[0].ended = world.now()
        case _:
            world.cloud.machines[0].price = A10.price + A10.price
    world.run(lambda: world.only().state == "ending", 300)
    assert hosts.forgotten


def test_a_rental_in_the_inventory(world: World, hosts: Scripted, tmp_path: Path) -> None:
    hosts.goals = ["reachable", "fit", "ready"]
    managed(world)
    world.run(lambda: world.only().state == "ready")
    rental = world.only()
    host = host_of(rental, tmp_path, {})
    assert (host.name, host.labels) == (f"H-100-{rental.id}", ("H 100!",)) and host.name == name_of(rental)
    assert (host.address, host.port, host.user, host.network_address) == ("203.0.113.7", 2222, "ubuntu", "10.0.0.7")
    assert (host.gpus, host.gpu_kind, host.price_per_hour) == (1, "A10", 1.29)
    assert host.expires == rental.end == expires(rental) and host.margin_seconds == 1800
    world.ledger.append(rental, "ready", world.now(), end_asked="drain")
    world.turn()
    assert expires(world.only()) == world.only().since + 600 < rental.end
    assert host_of(world.only(), tmp_path, {}).why_no_job(world.now())


def test_a_short_life_has_a_short_margin(world: World, tmp_path: Path) -> None:
    world.order(hours=0.5, managed=True, phases={"drain": 60})
    world.run(lambda: world.only().address is not None)
    host = host_of(world.only(), tmp_path, {})
    assert host.margin_seconds == 450 and host.name == f"rented-{world.only().id}" and host.labels == ()


@pytest.mark.parametrize(
    ("seen", "own", "forward"), [(False, None, ("A",)), (True, None, ()), (True, ["B"], ("B",)), (False, [], ())]
)
def test_variables_go_to_hosts_whose_key_somebody_vouches_for(
    world: World, tmp_path: Path, seen: bool, own: Any, forward: Any
) -> None:
    source = {"account": "lambda"} | ({} if own is None else {"forward": own})
    named = config({"from": [source], "env": {"X": "1"}, "forward": ["A"]}, "p")
    rental = world.order(pool="p")
    host_keys.pin(tmp_path, rental.id, ["ssh-ed25519 AAAA"], seen=seen)
    assert job_settings(rental, named, tmp_path) == {"env": {"X": "1"}, "forward": forward}
    assert job_settings(rental, RentConfig(), tmp_path) == {}


def test_an_offer_rests_after_an_unfit_host(world: World, hosts: Scripted) -> None:
    hosts.progress = Progress(unfit="its driver is too old")
    rental = managed(world)
    world.run(lambda: world.only().state == "ending")
    at = world.only().since
    why = resting(world.rentals(), A10, at + 23 * 3600, 24)
    assert why is not None and why.startswith("it rests until ") and why.endswith(f"{rental.id}: its driver is too old")
    assert resting(world.rentals(), A10, at + 24 * 3600, 24) is None
    assert resting(world.rentals(), A10, at, 0) is None
    other = replace(A10, id="gpu_1x_a10@us-west-1")
    assert resting(world.rentals(), other, at, 24) is None


def test_an_offer_does_not_rest_after_an_ordinary_end(world: World, hosts: Scripted) -> None:
    hosts.goals = ["reachable", "fit", "ready"]
    hosts.empty = True
    managed(world)
    world.run(world.settled)
    assert world.only().unfit is None and resting(world.rentals(), A10, world.now(), 24) is None


def test_an_offer_rests_when_its_hosts_do_not_boot(world: World) -> None:
    world.cloud.boot = 1e9
    managed(world)
    world.run(world.settled)
    assert "did not boot within 20 min" in str(resting(world.rentals(), A10, world.now(), 24))
