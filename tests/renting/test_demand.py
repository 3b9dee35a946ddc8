"""Steps that wait get hosts rented: what is missing is ordered once, within all caps, and each wait says why."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.agent import processes
from aquarat_pipeline.hosts import rentals
from aquarat_pipeline.hosts.host import RentedHost
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.renting.clouds.model import Offer
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.managed.hosting import Goal, Progress, Use
from aquarat_pipeline.renting.money import Money
from aquarat_pipeline.renting.ordering import notices
from aquarat_pipeline.renting.rental import Rental
from tests.renting.small_cloud import A10
from tests.renting.world import START, Points, World, killed_at_points

NEED = Requirement(True, ranks=1, device="cuda", pool="small")
WAIT = 120
DEARER = replace(A10, id="gpu_1x_a100@us-east-1", type="gpu_1x_a100", price=Money.cents(199))
WEST = replace(A10, id="gpu_1x_a10@us-west-1", region="us-west-1", price=Money.cents(130))


@dataclass
class ReadyHosts:
    """Hosts that are what they should be at once, and do what a test says."""

    ledger: Ledger
    runs: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """By rental."""

    def advance(self, rental: Rental, goal: Goal) -> Progress:
        if goal == "ready":
            folder = self.ledger.folder(rental.id)
            for name in ("id_ed25519", "known_hosts"):
                (folder / name).touch()
            offer = rental.order.offer
            host = RentedHost(
                folder=folder, name=rental.id, address="203.0.113.7", user="ubuntu", identity="id_ed25519",
                gpus=offer.gpus, labels=(rental.order.pool or "",), expires=rental.end, margin_seconds=60,
            )  # fmt: skip
            rentals.write(host)
        return Progress(done=True)

    def use(self, rental: Rental) -> Use:
        return Use(self.runs.get(rental.id, {}), 0.0)

    def drain(self, rental: Rental, why: str, stop: bool) -> bool:
        return True

    def forget(self, rental: Rental) -> None:
        (self.ledger.folder(rental.id) / "host.json").unlink(missing_ok=True)


def settings(account: dict[str, Any] | None = None, limits: dict[str, Any] | None = None, **pool: Any) -> RentConfig:
    small = {"from": [{"account": "lambda"}], "max_price_per_hour": 2, "hours": 2, "automatic": True, **pool}
    caps = {"cloud": "lambda", "per_day": 20, **(account or {})}
    return RentConfig.model_validate({"accounts": {"lambda": caps}, "pools": {"small": small}, "limits": limits or {}})


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, config=settings(), rents_for_runs=True)
    world.hosts = ReadyHosts(world.ledger)
    world.keeper = world.started()
    return world


def wait(world: World, run: str = "run", need: Requirement = NEED, **more: Any) -> Callable[[], None]:
    """A step of this process begins to wait now; what it returns ends that."""
    folder = world.home / "aquarat" / "queue"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{world.now():017.3f}-{run}-step.json"
    record = {"hosts": [], "process": processes.identity(os.getpid()), "run": run, "step": "step",
              "since": world.now(), "need": asdict(need), **more}  # fmt: skip
    processes.write_durably(path, record)
    return path.unlink


def said(world: World, run: str = "run") -> str:
    notice = notices.read(world.home, run, "step")
    return f"{notice.text}{notice.lasting(world.now())}" if notice else ""


def turns(world: World, seconds: float) -> None:
    end = world.now() + seconds
    while world.now() < end:
        world.turn()


def alive(world: World) -> list[Rental]:
    return [rental for rental in world.rentals() if not rental.final]


# --- when something is ordered ---------------------------------------------------------------------------------------


def test_a_host_is_ordered_after_the_wait_and_asked_for_in_the_next_turn(world: World) -> None:
    done = wait(world, budget_micros=9_000_000)
    turn = world.turn(0)
    assert (turn.waiting, turn.pause) == (1, 10.0) and not world.rentals()
    assert said(world) == "one of the pool small is rented at 00:55:20 UTC, unless a host is free before"
    world.seconds = START + WAIT - 4
    assert world.turn(4).pause == 4, "it does not sleep beyond the time"
    assert world.turn(0).pause == 0, "what was ordered is asked for at once"
    order = world.only().order
    assert (order.pool, order.run, order.run_budget_micros, order.managed) == ("small", "run", 9_000_000, True)
    assert (order.offer.id, order.end - START, order.max_price_micros) == (A10.id, WAIT + 7200, 2_000_000)
    assert order.phases.idle == 600
    assert said(world) == "renting gpu_1x_a10 in us-east-1 for at most $2.00 an hour; ordered"
    world.turn(180)
    assert world.only().state == "granted" and len(world.cloud.rents) == 1
    world.turn()
    assert said(world) == "renting gpu_1x_a10 in us-east-1 for $1.29 an hour; booting for 3 min"
    turns(world, 60)
    assert world.only().state == "ready" and not said(world), "the worker says what it tries itself"
    done()
    world.run(world.settled)
    assert len(world.rentals()) == 1 and world.turn().waiting == 0
    world.check()


def test_no_step_no_look(world: World) -> None:
    turns(world, 3600)
    assert world.cloud.looks == [] and not (world.home / "aquarat" / "renting.json").exists()


def test_each_step_gets_its_own_until_a_cap_is_reached(world: World) -> None:
    for run in ("a", "b", "c"):
        wait(world, run)
    turns(world, WAIT + 30)
    assert {one.order.run for one in world.rentals()} == {"a", "b"}
    assert said(world, "c") == "nothing is rented now: rent.yaml allows 2 rentals of lambda at a time, and 2 are open"
    assert said(world, "b").startswith("renting gpu_1x_a10")
    assert len(set(world.cloud.rents)) == 2


def test_a_host_that_is_free_serves_and_a_busy_one_only_for_the_wait(world: World) -> None:
    first = wait(world, "a")
    turns(world, WAIT + 200)
    (rental,) = alive(world)
    assert rental.state == "ready"
    assert isinstance(world.hosts, ReadyHosts)
    second = wait(world, "b")
    turns(world, WAIT + 30)
    assert len(alive(world)) == 2, "the older step gets the free host, so another is needed"
    first()
    turns(world, WAIT)
    (b,) = [one for one in alive(world) if one.id != rental.id]
    world.hosts.runs = {rental.id: {"a": 1}, b.id: {"b": 1}}
    second()
    third = wait(world, "c")
    turns(world, WAIT - 10)
    assert said(world, "c").endswith("unless a host is free before")
    world.config = settings({"max_rentals": 3})
    turns(world, 40)
    assert [one.order.run for one in alive(world)] == ["a", "b", "c"]
    third()


def test_a_rental_on_its_way_is_there_for_another_when_its_run_is_cancelled(world: World) -> None:
    cancel = wait(world, "a")
    turns(world, WAIT + 30)
    world.seconds += 1
    wait(world, "b")
    cancel()
    turns(world, WAIT + 30)
    assert [one.order.run for one in world.rentals()] == ["a"]


def test_an_order_that_was_not_sent_is_taken_back_with_its_run(world: World) -> None:
    cancel = wait(world, "a")
    world.seconds += WAIT
    world.turn(0)
    assert world.only().state == "intended"
    cancel()
    world.cloud.list_fault = lambda _: "down"
    turns(world, 40)
    world.cloud.list_fault = lambda _: ""
    turns(world, 60)
    assert world.only().state == "refused" and not world.cloud.rents


@pytest.mark.slow
def test_a_keeper_that_is_killed_anywhere_orders_once(tmp_path: Path) -> None:
    """Before and after every write and request, from the ticket to the grant."""
    points = 0
    for kill_at in (None, *range(1, 100)):
        if kill_at is not None and kill_at > points:
            break
        world = World(tmp_path / str(kill_at), config=settings(), rents_for_runs=True, points=Points(kill_at))
        world.hosts = ReadyHosts(world.ledger)
        with killed_at_points(world.points):
            world.keeper = world.started()
            wait(world)
            turns(world, WAIT + 600)
        points = points or world.points.passed
        usable = [one for one in world.rentals() if one.state == "ready"]
        assert len(usable) == 1 and len(world.cloud.alive()) == 1, kill_at
        assert len(world.cloud.rents) == len(set(world.cloud.rents))
    assert points > 20


# --- what is chosen --------------------------------------------------------------------------------------------------


def test_what_is_sold_out_rests_and_the_next_offer_is_taken(world: World) -> None:
    world.cloud.offered = (DEARER, A10, WEST)
    world.cloud.sold_out = {A10.id, WEST.id}
    wait(world)
    turns(world, WAIT + 60)
    assert [(one.order.offer.id, one.state) for one in world.rentals()][:2] == [
        (A10.id, "refused"), (WEST.id, "refused"),
    ]  # fmt: skip
    assert world.rentals()[2].order.offer.id == DEARER.id and len(alive(world)) == 1


def test_refusals_come_ever_more_rarely(world: World) -> None:
    """60 s, then twice as long, up to 10 minutes; and it is said."""
    world.cloud.sold_out = {A10.id}
    wait(world)
    turns(world, WAIT + 3 * 3600)
    asked = [one.events[0].at for one in world.rentals()]
    pauses = [round(b - a) for a, b in itertools.pairwise(asked)]
    assert all(wanted <= pause <= wanted + 90 for wanted, pause in zip((60, 120, 240, 480), pauses, strict=False))
    assert all(600 <= pause <= 1300 for pause in pauses[4:]) and len(pauses) > 10
    assert "nothing of the pool small can be rented: gpu_1x_a10@us-east-1: none left (tried again from" in said(world)


def test_an_offer_whose_host_was_unfit_is_not_taken_again(world: World) -> None:
    world.cloud.offered = (A10, DEARER)
    wait(world)
    turns(world, WAIT + 20)
    world.cloud.machines[0].price = Money.dollars(3)
    turns(world, 60)
    assert [one.order.offer.id for one in world.rentals()] == [A10.id, DEARER.id]
    world.cloud.offered = (A10,)
    world.cloud.machines[1].price = Money.dollars(3)
    turns(world, 600)
    assert len(world.rentals()) == 2 and "gpu_1x_a10@us-east-1: it rests until" in said(world)


def test_a_machine_that_could_prepare_no_host_orders_none(world: World) -> None:
    world.unready = "the store is file:///store, which rented hosts cannot reach"
    wait(world)
    turns(world, WAIT + 20)
    assert said(world) == f"nothing is rented, because no host could be prepared: {world.unready}"
    assert not world.rentals() and not world.cloud.looks


def test_a_quota_rests_the_whole_account(world: World) -> None:
    world.cloud.offered = (A10, WEST)
    world.cloud.rent_fault = "quota"
    wait(world)
    turns(world, WAIT + 50)
    assert len(world.cloud.rents) == 1
    turns(world, 60)
    assert len(world.cloud.rents) == 2


def test_nothing_fits_and_nothing_is_asked_too_often(world: World) -> None:
    world.cloud.offered = (replace(A10, available="no"), replace(A10, id="cpu", type="cpu", gpus=0))
    wait(world)
    turns(world, WAIT + 3600)
    assert "cpu: 0 GPUs; gpu_1x_a10@us-east-1: sold out. The next look is at" in said(world)
    assert len(world.cloud.looks) < 14
    world.seconds += 1
    world.cloud.looks.clear()
    wait(world, "new")
    turns(world, WAIT + 10)
    assert world.cloud.looks[-1] >= START + 2 * WAIT + 3600, "somebody new waits: it looks again"


@pytest.mark.parametrize(
    ("device", "offers", "taken"),
    [
        ("auto", ("cpu", "gpu"), "gpu"),
        ("auto", ("cpu",), "cpu"),
        ("cpu", ("cpu", "gpu"), "cpu"),
        ("cuda", ("cpu", "gpu"), "gpu"),
    ],
)
def test_a_job_that_takes_what_there_is_gets_gpus(
    world: World, device: str, offers: tuple[str, ...], taken: str
) -> None:
    known: dict[str, Offer] = {"cpu": replace(A10, id="cpu", type="cpu", gpus=0, price=Money.cents(10)), "gpu": A10}
    world.cloud.offered = tuple(known[name] for name in offers)
    wait(world, need=replace(NEED, device=device))
    turns(world, WAIT + 20)
    assert world.only().order.offer.id == known[taken].id


def test_hosts_of_one_run_come_from_one_place_or_not_at_all(world: World) -> None:
    east = [replace(A10, id="e", price=Money.cents(100)), replace(A10, id="e2", price=Money.cents(110))]
    world.cloud.offered = (*east, WEST)
    world.cloud.sold_out = {"e"}
    wait(world, need=replace(NEED, nodes=2))
    turns(world, WAIT + 60)
    assert [one.order.offer.region for one in alive(world)] == ["us-east-1", "us-east-1"]
    other = World(world.home / "other", config=settings({"max_rentals": 1}), rents_for_runs=True)
    wait(other, need=replace(NEED, nodes=2))
    turns(other, WAIT + 60)
    assert not other.rentals() and "allows 1 rentals of lambda" in said(other)
    apart = World(world.home / "apart", config=settings(), rents_for_runs=True)
    apart.cloud.capabilities = replace(apart.cloud.capabilities, private_network=False)
    wait(apart, need=replace(NEED, nodes=2))
    turns(apart, WAIT + 60)
    assert not apart.rentals() and "hosts of lambda do not reach each other" in said(apart)


@pytest.mark.parametrize("fewest", [1, 2])
def test_a_run_on_a_varying_number_of_hosts_has_the_fewest_rented(world: World, fewest: int) -> None:
    wait(world, need=replace(NEED, nodes=fewest, max_nodes=4))
    turns(world, WAIT + 60)
    assert len(alive(world)) == fewest


# --- when nothing is ordered -----------------------------------------------------------------------------------------


def test_a_pool_that_is_not_automatic_is_left_to_people(world: World) -> None:
    world.config = settings(automatic=False)
    wait(world)
    turns(world, WAIT + 30)
    assert not world.rentals() and not world.cloud.looks
    assert said(world) == (
        "the pool small of rent.yaml is not automatic, so a person has to rent: aquarat hosts rent --pool small"
    )
    world.order(pool="small", managed=True)
    turns(world, 20)
    assert said(world).startswith("renting gpu_1x_a10"), "a person has"


def test_a_day_cap_makes_wait_until_midnight(world: World) -> None:
    world.config = settings({"per_day": 5, "max_rentals": 9})
    wait(world, "a")
    wait(world, "b")
    turns(world, WAIT + 30)
    assert len(world.rentals()) == 1
    text = said(world, "b")
    assert "$5.00 a day from lambda are allowed" in text and "the next chance is 00:00 UTC, or raise it" in text


def test_a_runs_budget_is_kept(world: World) -> None:
    world.config = settings({"max_rentals": 9})
    wait(world, budget_micros=3_999_999)
    turns(world, WAIT + 30)
    assert not world.rentals() and "$4.00 for run run are allowed" in said(world), "2 h at $2.00 are $4.00"


def test_a_low_balance_is_said_and_nothing_is_ordered(world: World) -> None:
    world.cloud.capabilities = replace(world.cloud.capabilities, balance=True)
    world.cloud.credit = Money.dollars(3)
    wait(world)
    turns(world, WAIT + 300)
    assert not world.rentals() and "lambda has a balance of $3.00" in said(world)
    world.cloud.credit = Money.dollars(30)
    turns(world, 120)
    assert len(alive(world)) == 1


@pytest.mark.parametrize(
    "need",
    [replace(NEED, pool=None), replace(NEED, pool="label of my own"), replace(NEED, host="one")],
)
def test_others_than_pools_of_rent_yaml_are_left_alone(world: World, need: Requirement) -> None:
    wait(world, need=need)
    turns(world, WAIT + 60)
    assert not world.rentals() and not said(world)


def test_a_damaged_ledger_or_rent_yaml_stops_orders_only(world: World) -> None:
    wait(world)
    world.seconds += WAIT
    damaged = world.ledger.folder("damaged1")
    (damaged / "events").mkdir(parents=True)
    (damaged / "order.json").write_text("{")
    world.turn()
    assert "nothing new is rented while the ledger is damaged" in said(world)
    (damaged / "order.json").unlink()
    world.broken = "rent.yaml: pools.small.hours: Input should be a valid number"
    world.turn()
    assert said(world) == f"nothing is rented: {world.broken}" and not world.rentals()
    world.broken = ""
    world.turn()
    assert len(world.rentals()) == 1


def test_a_notice_of_a_dead_keeper_is_not_believed(world: World) -> None:
    wait(world)
    world.turn()
    path = world.home / "aquarat" / "renting.json"
    assert said(world)
    path.write_text(path.read_text().replace('"started": ', '"started": 1'))
    assert not said(world)
