"""The keeper with the real adapters against the fake providers, over HTTP: all ends, and is counted.

`Worlds` checks at the end of each test that nothing was sent that the API does not know, or faster than it allows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aquarat_pipeline.renting.cloud import Account, Surroundings, connect
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.costs import accrued
from aquarat_pipeline.renting.hosting import UnmanagedHosts
from aquarat_pipeline.renting.keeper import Keeper, SshKey
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.money import Money, bill
from aquarat_pipeline.renting.names import RentalName
from aquarat_pipeline.renting.reaper import GRACE_SECONDS, reap
from aquarat_pipeline.renting.rental import Rental
from aquarat_pipeline.renting.requests import new_order
from tests.renting.conftest import PRICES, PUBLIC_KEY, World, Worlds
from tests.renting.fakes.clock import FakeClock
from tests.renting.fakes.compute_api import PROJECT, ZONES
from tests.renting.fakes.machines import Timing
from tests.renting.fakes.script import Effect, Fault, once, times
from tests.renting.fakes.server import KEY
from tests.renting.world import Kill, Points, Watched, killed_at_points

KINDS = ("lambda", "hyperbolic", "gce")


class Chain:
    """A keeper, its ledger, and a fake provider."""

    def __init__(self, home: Path, world: World[Any], surroundings: Surroundings, points: Points | None = None) -> None:
        self.world, self.points = world, points or Points()
        self.surroundings = surroundings
        self.clock: FakeClock = world.clock
        self.ledger = Ledger(home)
        self.notes: list[str] = []
        kind = world.cloud.account
        compute: dict[str, object] = {"project": PROJECT, "zones": list(ZONES), "prices": PRICES}
        address = world.fake.address.removesuffix("/compute/v1")
        self.account = Account(kind, kind, address=address, options=compute if kind == "gce" else {})
        self.keeper = self.started()

    def started(self) -> Keeper:
        def open_account(account: Account) -> Any:
            return Watched(connect(account, self.surroundings), self.points)

        key = SshKey(f"aquarat-{self.ledger.installation()}", PUBLIC_KEY)
        return Keeper(self.ledger, open_account, UnmanagedHosts(), RentConfig, lambda: key, self.clock.now)

    def order(self, hours: float = 0.5) -> Rental:
        offers = [one for one in self.world.cloud.offers() if one.available != "no" and one.gpus]
        offer = min(offers, key=lambda one: one.price)
        can = self.world.cloud.capabilities
        now = self.clock.now()
        installation = self.ledger.installation()
        return self.ledger.order(
            new_order(installation, self.account, offer, can, now, hours, hours, offer.price, managed=False)
        )

    def only(self) -> Rental:
        (rental,) = self.ledger.load().rentals
        return rental

    def turn(self) -> None:
        try:
            self.notes += self.keeper.turn().notes
        except Kill:
            self.keeper = self.started()
        self.clock.advance(20)

    def run(self, limit: float = 4 * 3600) -> Rental:
        end = self.clock.now() + limit
        while not self.only().final:
            assert self.clock.now() < end, (self.only().state, self.only().events[-3:], self.notes[-3:])
            self.turn()
        return self.only()

    def check(self) -> None:
        """Nothing is alive, nothing was ordered twice, and the ledger counts the bill and what it waits for."""
        rental, fake = self.only(), self.world.fake
        assert rental.final and not fake.alive()
        names = [name for verb, request in fake.requests if verb == "rent" for name in [_name(request.body)]]
        assert names in ([], [rental.name])
        billed, counted = Money(fake.bill()), accrued(rental, self.clock.now())
        slack = bill(rental.hourly, rental.order.settle_seconds + 240, 60)
        assert billed <= counted <= billed + slack, "the ledger is wrong"
        text = "".join(path.read_text() for path in self.ledger.folder(rental.id).rglob("*.json"))
        assert KEY not in text + json.dumps(self.notes)


def _name(body: Any) -> str:
    return body.get("name") or body.get("label")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.mark.parametrize("kind", KINDS)
def test_from_order_to_proof(worlds: Worlds, surroundings: Surroundings, home: Path, kind: str) -> None:
    chain = Chain(home, worlds.of(kind), surroundings)
    chain.order()
    assert chain.run().state == "gone"
    chain.check()
    assert "ready" in [event.state for event in chain.only().events] and chain.only().address


@pytest.mark.parametrize("kind", ["lambda", "hyperbolic"])
@pytest.mark.parametrize(
    "effect", ["then 500", "then 429", "then cut", "then no id", "then html", "then 500 with id", "504", "quota", "401"]
)
def test_what_a_rent_is_answered(
    worlds: Worlds, surroundings: Surroundings, home: Path, kind: str, effect: Effect
) -> None:
    world = worlds.of(kind, once("rent", effect), timing=Timing(list_lag=90))
    chain = Chain(home, world, surroundings)
    chain.order()
    chain.run()
    chain.check()
    made = effect.startswith("then")
    assert (chain.only().state, bool(world.fake.machines)) == (
        ("gone" if made else "absent" if effect == "504" else "refused"),
        made,
    )


@pytest.mark.parametrize("kind", ["lambda", "hyperbolic"])
@pytest.mark.parametrize(
    ("on", "effect"),
    [
        *(("terminate", effect) for effect in ("without effect", "500", "then cut", "html 200")),
        *(("list", effect) for effect in ("500", "html 200", "first half", "extra fields", "odd time")),
    ],
)
def test_ending_lasts_until_it_is_proved(
    worlds: Worlds, surroundings: Surroundings, home: Path, kind: str, on: Any, effect: Effect
) -> None:
    timing = Timing(listed_after_end=0)
    world = worlds.of(kind, times(on, effect, 4) if on == "terminate" else Fault(on, effect, chance=0.4), timing=timing)
    chain = Chain(home, world, surroundings)
    chain.order()
    assert chain.run().state == "gone"
    chain.check()


def test_a_name_that_is_lost_is_unfit(worlds: Worlds, surroundings: Surroundings, home: Path) -> None:
    chain = Chain(home, worlds.of("lambda", Fault("list", "no name", between=(0, 1e9))), surroundings)
    chain.order()
    assert chain.run().state == "gone"
    assert "did not keep its name" in str(chain.only().events)
    chain.check()


def test_a_price_that_rose_is_unfit(worlds: Worlds, surroundings: Surroundings, home: Path) -> None:
    world = worlds.of_lambda()
    chain = Chain(home, world, surroundings)
    rental = chain.order()
    world.fake.granted_cents[rental.order.offer.type] = 999
    began = chain.clock.now()
    assert chain.run().state == "gone" and "costs $9.99 an hour" in str(chain.only().events)
    assert chain.clock.now() < began + 600
    chain.check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_around_the_order(worlds: Worlds, surroundings: Surroundings, home: Path, kind: str) -> None:
    """At each point up to the written answer, whose request makes an instance and is answered by an error."""
    for kill_at in range(1, 14):
        fault = Fault("rent", "then 500", calls=(1,))
        world = worlds.of(kind, *([fault] if kind != "gce" else []))
        chain = Chain(home / str(kill_at), world, surroundings, Points(kill_at))
        chain.ledger.installation()
        with killed_at_points(chain.points):
            try:
                chain.order(hours=0.4)
            except Kill:
                if not chain.ledger.load().rentals:
                    continue
            chain.run()
        assert chain.only().state in ("gone", "absent")
        chain.check()


@pytest.mark.parametrize("kind", ["lambda", "hyperbolic"])
def test_the_reaper_ends_what_the_control_host_left(
    worlds: Worlds, surroundings: Surroundings, home: Path, kind: str
) -> None:
    world = worlds.of(kind)
    chain = Chain(home, world, surroundings)
    rental = chain.order(hours=1)
    while chain.only().state != "ready":
        chain.turn()
    installation = rental.order.parts.installation
    other = str(RentalName("zzzzzz", "abcdefgh", int(chain.clock.now()) - 9999))
    world.cloud.rent(rental.order.offer.offer, world.order(hours=0.1))
    before = len(world.fake.alive())
    first = reap(world.cloud, [installation], chain.clock.now())
    assert (first.ours, first.foreign, first.asked, first.problems) == (1, 1, [], [])
    chain.clock.advance(3600 + GRACE_SECONDS)
    assert reap(world.cloud, [other[3:9]], chain.clock.now()).asked == []
    assert reap(world.cloud, [installation], chain.clock.now(), dry_run=True).asked == [rental.name]
    assert len(world.fake.alive()) == before
    assert reap(world.cloud, [installation], chain.clock.now()).asked == [rental.name]
    chain.clock.advance(60)
    assert len(world.fake.alive()) == before - 1


def test_few_requests_when_nothing_changes(worlds: Worlds, surroundings: Surroundings, home: Path) -> None:
    world = worlds.of_lambda()
    chain = Chain(home, world, surroundings)
    chain.order(hours=3)
    while chain.only().state != "ready":
        chain.turn()
    world.fake.requests.clear()
    began = chain.clock.now()
    while chain.clock.now() < began + 3600:
        chain.turn()
    assert len(world.fake.requests) <= 61
