"""A keeper with its ledger and the real adapters against a fake provider over HTTP, and what must hold afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from aquarat_pipeline.renting.clouds.cloud import Account, Cloud, Surroundings, connect
from aquarat_pipeline.renting.clouds.model import Limits
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.costs import accrued, begin
from aquarat_pipeline.renting.keeper import Keeper, SshKey
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.managed.hosting import Hosts, UnmanagedHosts
from aquarat_pipeline.renting.money import Money, bill
from aquarat_pipeline.renting.names import parse
from aquarat_pipeline.renting.rental import Rental
from aquarat_pipeline.renting.requests import new_order
from tests.folders import contents_below
from tests.patience import limit
from tests.renting.fakes.clock import FakeClock
from tests.renting.fakes.compute_api import PROJECT, ZONES, FakeComputeEngine
from tests.renting.fakes.hyperbolic_api import FakeHyperbolic
from tests.renting.fakes.lambda_api import JUPYTER, FakeLambda
from tests.renting.fakes.machines import Machine
from tests.renting.fakes.server import KEY, FakeCloud
from tests.renting.world import Kill, Points, Watched, end_suspects

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFak aquarat"
PRICES = {"a3-highgpu-8g": 88.25, "g2-standard-4": "0.71", "n2-standard-4": 0.19, "a4-highgpu-8g": 120}
KINDS = ("lambda", "hyperbolic", "gce")
FAKES: dict[str, type[FakeCloud]] = {"lambda": FakeLambda, "hyperbolic": FakeHyperbolic, "gce": FakeComputeEngine}
CANARIES = (KEY, JUPYTER)
"""Texts that must never get into a file, a message or a body."""


def account_of(kind: str, address: str) -> Account:
    """The account of a fake at this address."""
    options: dict[str, object] = {"project": PROJECT, "zones": list(ZONES), "prices": PRICES} if kind == "gce" else {}
    # Compute Engine's client adds the path itself.
    return Account(kind, kind, address=address.removesuffix("/compute/v1"), options=options)


def surroundings_of(folder: Path, now: Callable[[], float], sleep: Callable[[float], None]) -> Surroundings:
    # What a fake withholds has to be waited for in earnest; what it sends comes well within these limits.
    short = Limits(connect=limit(2), read=limit(0.5), rent_read=limit(0.5), call=limit(1.0))
    return Surroundings(folder / "rates", {"LAMBDA_API_KEY": KEY, "HYPERBOLIC_API_KEY": KEY}, now, sleep, short)


class ControlHost:
    """One control host. `offset` is how far its clock is ahead of everybody else's, in seconds."""

    def __init__(
        self,
        home: Path,
        kind: str,
        fake: FakeCloud,
        clock: FakeClock,
        surroundings: Surroundings,
        points: Points | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        self.home, self.kind, self.fake, self.clock = home, kind, fake, clock
        self.points = points or Points()
        self.hosts = hosts or UnmanagedHosts()
        self.offset = 0.0
        self.forward = 0
        """How often its clock was set forward: then one request may come too soon."""
        self.surroundings = replace(surroundings, now=self.now)
        self.config = RentConfig()
        self.account = account_of(kind, fake.address)
        self.cloud: Cloud = connect(self.account, self.surroundings)
        self.ledger = Ledger(home)
        self.ledger.installation()
        self.notes: list[str] = []
        self.looks: list[float] = []
        """When a keeper of this chain was answered a list in full."""
        self.leaked = 0
        """Micro-dollars that `check` found to be billed and unknown to the ledger."""
        self.foreign: list[Machine] = []
        """Instances of others, which nobody here may touch."""
        self.keeper = self.started()

    def now(self) -> float:
        return self.clock.now() + self.offset

    def started(self) -> Keeper:
        """Another keeper of this home, which remembers nothing."""

        def open_account(account: Account) -> Any:
            return Watched(connect(account, self.surroundings), self.points)

        ledger = Ledger(self.home)
        return Keeper(ledger, open_account, self.hosts, lambda: self.config, self._ssh_key, self.now)

    def _ssh_key(self) -> SshKey:
        return SshKey(f"aquarat-{self.ledger.installation()}", PUBLIC_KEY)

    def order(self, hours: float = 0.5, most: float | None = None, **more: Any) -> Rental:
        """Orders the cheapest host with GPUs."""
        offers = [one for one in self.cloud.offers() if one.available != "no" and one.gpus]
        offer = min(offers, key=lambda one: one.price)
        can, installation = self.cloud.capabilities, self.ledger.installation()
        price = more.pop("max_price", offer.price)
        given = (installation, self.account, offer, can, self.now(), hours, most or hours, price)
        return self.ledger.order(new_order(*given, **more))

    def stranger(self, name: str | None) -> Machine:
        """An instance of somebody else on the same account."""
        made: Machine = self.fake.order(name)  # pyright: ignore[reportAttributeAccessIssue]
        self.foreign.append(made)
        return made

    def rentals(self) -> tuple[Rental, ...]:
        loaded = self.ledger.load()
        assert not loaded.problems, loaded.problems
        return loaded.rentals

    def only(self) -> Rental:
        (rental,) = self.rentals()
        return rental

    def said(self) -> str:
        """All that the only rental's events say."""
        return " | ".join(event.why for event in self.only().events)

    def turn(self, seconds: float = 10.0, keeper: Keeper | None = None) -> None:
        """One turn, by a new keeper if this one is killed; then time passes."""
        new: list[str] = []
        before = len(self.fake.looks)
        try:
            new = (keeper or self.keeper).turn().notes
        except Kill:
            self.keeper = self.started()
        self.looks += self.fake.looks[before:]
        self.notes += new
        with suppress(Kill):
            end_suspects(self.ledger, new, self.now())
        self.clock.advance(seconds)

    def run(self, until: Callable[[], object], limit: float = 4 * 3600, seconds: float = 10.0) -> None:
        """Turns until something is so. Fails when it takes longer than `limit` seconds."""
        end = self.clock.now() + limit
        while not until():
            shown = [(one.name, one.state, one.events[-2:]) for one in self.rentals()]
            assert self.clock.now() < end, f"too late: {shown}, {self.notes[-3:]}"
            self.turn(seconds)

    def until(self, state: str, limit: float = 4 * 3600) -> Rental:
        """Turns until the only rental has been in this state."""
        self.run(lambda: state in [event.state for event in self.only().events], limit)
        return self.only()

    def settle(self, limit: float = 4 * 3600, seconds: float = 10.0) -> None:
        """Turns until all rentals are final and nothing of ours runs."""
        self.run(lambda: all(one.final for one in self.rentals()) and not self.alive(), limit, seconds)

    def ours(self) -> list[Machine]:
        strangers = {one.id for one in self.foreign}
        known = {one.name for one in self.rentals()}
        mine = self.ledger.installation()
        return [one for one in self.fake.machines if one.id not in strangers and _is_of(one, mine, known)]

    def alive(self) -> list[Machine]:
        return [one for one in self.ours() if one.alive(self.clock.now())]

    def check(self, slack_seconds: float = 0.0, late_seconds: float | None = 0.0) -> None:
        """Nothing runs, nothing was asked twice, no stranger was touched, no secret got out, and the bill is right.

        `slack_seconds` is by how much the clock of this control host was wrong, `late_seconds` how much later than it
        was seen an end may have been written down, because a keeper was killed in between; None for any time.
        """
        fake, rentals = self.fake, self.rentals()
        assert all(one.final for one in rentals) and not self.alive(), "something of ours still runs"
        asked = [_name(request.body) for verb, request in fake.requests if verb == "rent"]
        assert len(set(asked)) == len(asked), f"an order was sent twice: {asked}"
        ended = [json.dumps([request.path, request.body]) for verb, request in fake.requests if verb == "terminate"]
        for stranger in self.foreign:
            named = f'"{stranger.id}"' if self.kind != "hyperbolic" else f": {stranger.id}"
            assert stranger.end_asked is None and not any(named in one for one in ended), "a stranger was touched"
        assert fake.complaints == [], "the client sent what the API does not know"
        assert fake.too_fast <= self.forward, "the client asked more often than it may"
        self._check_secrets()
        for rental in rentals:
            self._check_bill(rental, slack_seconds, late_seconds)

    def _check_secrets(self) -> None:
        texts = [text.decode(errors="replace") for text in contents_below(self.home).values()]
        texts += self.notes
        texts += [json.dumps([request.path, request.query, request.body]) for _, request in self.fake.requests]
        for secret in CANARIES:
            assert not any(secret in text for text in texts), "a secret is where it must not be"

    def _check_bill(self, rental: Rental, slack_seconds: float, late_seconds: float | None) -> None:
        """The ledger counts what the provider bills, up to the first look that could prove the end: within one of the
        provider's billing steps for each instance, and never too low."""
        machines = [one for one in self.ours() if one.name == rental.name or one.id == rental.instance_id]
        counted = accrued(rental, self.now())
        billed, most = Money(0), Money(0)
        for machine in machines:
            step, price = self.fake.step, max(Money(machine.micros_per_hour), rental.hourly)
            billed += Money(machine.bill(self.clock.now(), self.fake.from_running, step))
            start = begin(rental)
            assert start is not None, f"{rental.name} was made, and the ledger counts nothing"
            start = min(start, machine.ordered)
            known = self._proved(rental, machine) - start + slack_seconds + (late_seconds or 0.0)
            most += bill(price, known + step, step)
        # What was granted and is found by nobody costs up to the proof that it is not there.
        assert counted <= most or not machines or late_seconds is None, (
            f"{rental.name}: the ledger counts {counted}, and {most} can be explained"
        )
        less = bill(rental.hourly, slack_seconds, 1)
        self.leaked += max(0, (billed - counted - less).micros)
        assert billed <= counted + less, f"{rental.name}: the provider bills {billed}, and the ledger knows {counted}"

    def _proved(self, rental: Rental, machine: Machine) -> float:
        """When a list first could prove that the instance has ended."""
        stopped = machine.stopped(self.clock.now())
        assert stopped is not None
        answers: list[float] = []
        for event in rental.events:
            answers = [] if event.seen else [*answers, event.at] if event.answer in ("accepted", "gone") else answers
        asked = rental.asked or 0.0
        from_ = stopped
        if machine.timing.listed_after_end < 60 or machine.vanished is not None or self.kind != "lambda":
            from_ = max(from_, asked + rental.order.settle_seconds)
        # The look of the turn that asked came before the answer.
        asked_at = max(answers[:1] or [0.0])
        return min((at for at in self.looks if at >= from_ and at > asked_at), default=self.clock.now())


def _is_of(machine: Machine, installation: str, known: Iterable[str]) -> bool:
    """An instance without a name is taken for ours."""
    name = parse(machine.name)
    return machine.account == KEY and (name is None or name.installation == installation or machine.name in known)


def _name(body: Any) -> str:
    return body.get("name") or body.get("label")
