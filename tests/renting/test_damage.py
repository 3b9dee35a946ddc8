"""What is rented ends, and is paid no longer than it must be, whatever became of the files of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.errors import UsageError
from aquarat_pipeline.locks import held, is_held
from aquarat_pipeline.renting import ledger as ledger_module
from aquarat_pipeline.renting.clouds.cloud import Account
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.keeping import why_needed
from aquarat_pipeline.renting.ledger import MAX_BYTES, LedgerError
from aquarat_pipeline.renting.managed.hosting import Goal, Progress
from aquarat_pipeline.renting.rental import Rental
from aquarat_pipeline.renting.requests import extend, new_order
from tests.renting.small_cloud import A10
from tests.renting.test_phases import Scripted
from tests.renting.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def ready(world: World, hours: float) -> Rental:
    world.order(hours=hours)
    world.run(lambda: world.only().state == "ready")
    return world.only()


def turns(world: World, seconds: float) -> None:
    end = world.seconds + seconds
    while world.seconds < end:
        world.turn()


@pytest.mark.parametrize("damaged", ["order.json", "events/000003.json"])
def test_the_only_rental_ends_in_time_although_it_cannot_be_read(world: World, damaged: str) -> None:
    rental = ready(world, hours=0.5)
    world.config = RentConfig.model_validate({"accounts": {"lambda": {"cloud": "lambda"}}})
    path = world.ledger.folder(rental.id) / damaged
    path.unlink()
    path.write_text("{")
    assert world.turn().watched, "the keeper must not end"
    assert "cannot be read" in (why_needed(world.home, world.now()) or "")
    turns(world, rental.order.last_end + 600 - world.seconds)
    assert not world.cloud.alive() and world.cloud.terminated == [rental.instance_id]


def test_a_ledger_that_cannot_be_listed_is_not_an_empty_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as when a process has too many files open."""
    ready(world, hours=1)
    listdir: Any = os.listdir

    def failing(path: Any = ".") -> list[str]:
        if str(path).endswith("rentals"):
            raise OSError(24, "Too many open files", str(path))
        return listdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", failing)
        assert "Too many open files" in world.ledger.load().problems[0]
        assert world.turn().watched, "the keeper must not end"
    world.run(world.settled)
    world.check()


def test_a_full_disk_keeps_nothing_running(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rental = ready(world, hours=0.5)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "create_durably", full)
        turns(world, rental.end + 60 - world.seconds)
        assert not world.cloud.alive()
    world.run(world.settled, 300)
    world.check()


def test_a_lock_holds_without_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, a keeper that was killed is followed by another."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with held(tmp_path / "keeper.lock", "me"):
        assert is_held(tmp_path / "keeper.lock")


def test_rentals_end_although_nobody_knows_whose_they_are(world: World) -> None:
    rental = ready(world, hours=0.5)
    (world.home / "aquarat" / "installation").write_text("")
    world.run(world.settled, rental.end + 300 - world.seconds)
    world.check()
    assert any("installation" in note for note in world.notes)


def of_account(world: World, name: str) -> Rental:
    """An order for an hour from the same account under another name."""
    account, now = Account(name, "lambda", "LAMBDA_API_KEY"), world.now()
    return world.ledger.order(
        new_order(world.ledger.installation(), account, A10, world.cloud.capabilities, now, 1, 1, A10.price)
    )


def test_an_account_that_was_renamed_has_no_strangers(world: World) -> None:
    first = ready(world, hours=3)
    second = of_account(world, "mine")
    world.run(lambda: world.ledger.read(second.id).state == "ready", 300)
    assert not any("not in the ledger" in note for note in world.notes)
    assert world.ledger.read(first.id).state == "ready"


@pytest.mark.parametrize(("before", "now"), [("lambda", "mine"), ("mine", "lambda")])
def test_caps_count_an_account_by_all_its_names(world: World, before: str, now: str) -> None:
    """Also an order that was made under a name which rent.yaml has no more."""
    world.config = RentConfig.model_validate({"accounts": {"mine": {"cloud": "lambda", "max_rentals": 1}}})
    first = of_account(world, before)
    world.run(lambda: world.ledger.read(first.id).state == "ready", 300)
    second = of_account(world, now)
    world.turn()
    world.turn()
    refused = world.ledger.read(second.id)
    assert refused.state == "refused" and "allows 1 rentals" in refused.events[-1].why
    assert len(world.cloud.rents) == 1


class Failing(Scripted):
    def advance(self, rental: Rental, goal: Goal) -> Progress:
        raise RuntimeError("can't start new thread")


def test_limits_hold_although_a_host_cannot_be_looked_at(tmp_path: Path) -> None:
    world = World(tmp_path, hosts=Failing())
    world.order(hours=8, managed=True)
    world.run(world.settled, 1800)
    world.check()
    assert "can't start new thread" in (world.only().unfit or world.only().events[-1]).why


def test_one_account_that_breaks_the_rules_does_not_end_the_keeper(world: World) -> None:
    ready(world, hours=1)

    def broken(_: float) -> str:
        raise ArithmeticError("a bug of an adapter")

    world.cloud.list_fault = broken
    turns(world, 120)
    assert any("a bug of an adapter" in note for note in world.notes)
    world.cloud.list_fault = lambda _: ""
    world.run(world.settled)
    world.check()


@pytest.mark.parametrize("said", ["x" * (2 * MAX_BYTES), "first\nsecond \x1b[2J", "\ud800"])
def test_what_a_host_says_never_spoils_the_ledger(tmp_path: Path, said: str) -> None:
    hosts = Scripted()
    hosts.progress = Progress(unfit=said)
    world = World(tmp_path, hosts=hosts)
    world.order(hours=8, managed=True)
    world.run(world.settled, 900)
    world.check()
    unfit = world.only().unfit
    assert unfit is not None and len(unfit.why) <= 2000
    assert "\n" not in unfit.why and "\x1b" not in unfit.why


def test_what_could_not_be_read_again_is_not_written(world: World) -> None:
    rental = world.order()
    with pytest.raises(LedgerError, match="it was not written"):
        world.ledger.append(rental, "intended", world.now(), runs={"x" * MAX_BYTES: 1})
    assert world.ledger.load().rentals == (rental,)


@pytest.mark.parametrize("hours", [float("nan"), float("inf"), float("-inf")])
def test_no_rental_is_extended_by_what_is_no_number(world: World, hours: float) -> None:
    with pytest.raises(UsageError):
        extend(world.ledger, world.order(hours=1, most=3), hours, world.now())
