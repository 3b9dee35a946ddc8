"""A keeper with its ledger, its clock and a small cloud, which can be killed at every point and started again."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aquarat_pipeline.renting import ledger as ledger_module
from aquarat_pipeline.renting.clouds.cloud import Account
from aquarat_pipeline.renting.config import RentConfig, RentConfigError
from aquarat_pipeline.renting.costs import accrued
from aquarat_pipeline.renting.keeper import Keeper, SshKey, Turn
from aquarat_pipeline.renting.ledger import Ledger
from aquarat_pipeline.renting.managed.hosting import Hosts, UnmanagedHosts
from aquarat_pipeline.renting.money import ZERO, Money
from aquarat_pipeline.renting.ordering.demand import Demand
from aquarat_pipeline.renting.rental import Rental
from aquarat_pipeline.renting.requests import end_instance, new_order
from tests.renting.small_cloud import A10, SmallCloud

START = 1_796_000_000.0
KEY = SshKey("aquarat", "ssh-ed25519 AAAA")


class Kill(BaseException):
    """The keeper's process is gone."""


@dataclass
class Points:
    """Counts the points at which a keeper can be killed, and kills it at one of them."""

    kill_at: int | None = None
    passed: int = 0

    def __call__(self) -> None:
        self.passed += 1
        if self.passed == self.kill_at:
            raise Kill


@dataclass
class Watched:
    """The cloud as one keeper reaches it: it may be killed before a request is sent, or before its answer is read."""

    cloud: Any
    points: Points

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.cloud, name)
        if name not in ("rent", "list", "terminate", "ensure_ssh_key"):
            return found

        def call(*args: Any) -> Any:
            self.points()
            answer = found(*args)
            self.points()
            return answer

        return call


@dataclass
class World:
    """`seconds` is the time that everybody sees."""

    home: Path
    seconds: float = START
    points: Points = field(default_factory=Points)
    config: RentConfig = field(default_factory=RentConfig)
    hosts: Hosts = field(default_factory=UnmanagedHosts)
    notes: list[str] = field(default_factory=list[str])
    rents_for_runs: bool = False
    """Whether the keeper orders hosts for steps that wait."""
    broken: str = ""
    """What is wrong with rent.yaml."""
    unready: str | None = None
    """Why no host could be prepared for jobs."""

    def __post_init__(self) -> None:
        self.cloud = SmallCloud(self.now)
        self.ledger = Ledger(self.home)
        self.keeper = self.started()

    def now(self) -> float:
        return self.seconds

    def started(self) -> Keeper:
        def connect(_: Account) -> Any:
            return Watched(self.cloud, self.points)

        demand = Demand(self.home, self.ledger, self.settings, self.now, lambda: self.unready)
        orders = demand if self.rents_for_runs else None
        return Keeper(self.ledger, connect, self.hosts, self.settings, lambda: KEY, self.now, orders)

    def settings(self) -> RentConfig:
        if self.broken:
            raise RentConfigError(self.broken)
        return self.config

    def order(self, hours: float = 1.0, most: float | None = None, **changed: Any) -> Rental:
        account, capabilities = Account("lambda", "lambda"), self.cloud.capabilities
        order = new_order(
            self.ledger.installation(),
            account,
            A10,
            capabilities,
            self.now(),
            hours,
            most or hours,
            A10.price,
            **changed,
        )
        return self.ledger.order(order)

    def turn(self, seconds: float = 10) -> Turn:
        """One turn, by a new keeper if this one is killed."""
        done = Turn()
        try:
            done = self.keeper.turn()
        except Kill:
            self.keeper = self.started()
        self.notes += done.notes
        self.seconds += seconds
        return done

    def run(self, until: Callable[[], bool], limit: float = 6 * 3600) -> None:
        """Turns until something is so. Fails when it takes longer than `limit`."""
        end = self.seconds + limit
        while not until():
            self.act_as_a_person()
            assert self.seconds < end, (
                f"{[(r.name, r.state, r.events[-1:]) for r in self.rentals()]}, {self.notes[-3:]}"
            )
            self.turn()

    def act_as_a_person(self) -> None:
        """Ends by hand what the keeper says that nobody else can."""
        end_suspects(self.ledger, self.notes[-1:], self.now())

    def rentals(self) -> tuple[Rental, ...]:
        loaded = self.ledger.load()
        assert not loaded.problems
        return loaded.rentals

    def only(self) -> Rental:
        (rental,) = self.rentals()
        return rental

    def settled(self) -> bool:
        return all(rental.final for rental in self.rentals())

    def cost(self) -> Money:
        total = ZERO
        for rental in self.rentals():
            total += accrued(rental, self.now())
        return total

    def check(self) -> None:
        """What must be true when all rentals are final."""
        assert self.settled() and not self.cloud.alive()
        assert not self.cloud.foreign & set(self.cloud.terminated), "a stranger was touched"
        assert len(set(self.cloud.rents)) == len(self.cloud.rents), "an order was sent twice"


def end_suspects(ledger: Ledger, notes: Iterable[str], now: float) -> None:
    """What a person does who reads the keeper's notes: ends the nameless instances that they name."""
    for note in notes:
        asked = re.search("aquarat hosts terminate ([a-z0-9]+) --provider-id (.+)$", note)
        if asked and (rental := ledger.read(asked[1])).state == "unclear":
            end_instance(ledger, rental, asked[2], now)


@contextmanager
def killed_at_points(points: Points) -> Generator[None]:
    """Files can be cut off too: before they are written, before they have their name, and after that."""
    create = ledger_module.create_durably

    def watched(path: Path, obj: object) -> None:
        points()
        path.with_name(f".{path.name}.torn").write_bytes(b'{"sta')
        points()
        create(path, obj)
        points()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "create_durably", watched)
        yield
