"""What else costs money: filesystems and disks, and what `hosts rentals --provider` says of all that a cloud lists."""

from __future__ import annotations

import json

import pytest

from aquarat_pipeline.renting.clouds.model import Leftover, Unavailable
from aquarat_pipeline.renting.ledger import Ledger
from tests.renting.commands import RENT, machine, said
from tests.renting.conftest import Worlds
from tests.renting.fakes.compute_api import ZONES
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fakes.server import Answer


def test_filesystems_of_lambda(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    assert world.cloud.leftovers() == ()
    world.fake.add_filesystem("aq-abc123-data")
    world.fake.add_filesystem("theirs", in_use=True)
    ours, theirs = world.cloud.leftovers()
    assert ours == Leftover("filesystem", ours.id, "aq-abc123-data", "us-east-1", in_use=False)
    assert (theirs.name, theirs.in_use) == ("theirs", True)


def test_disks_of_compute_engine(worlds: Worlds) -> None:
    world = worlds.of_compute()
    world.fake.disks += [("aq-disk", ZONES[0], []), ("theirs", ZONES[1], ["instances/one"])]
    assert sorted(world.cloud.leftovers(), key=lambda one: one.name) == [
        Leftover("disk", f"{ZONES[0]}/aq-disk", "aq-disk", ZONES[0], in_use=False),
        Leftover("disk", f"{ZONES[1]}/theirs", "theirs", ZONES[1], in_use=True),
    ]
    world.fake.unreachable.append(ZONES[1])
    with pytest.raises(Unavailable, match="no answer about"):
        world.cloud.leftovers()


def test_hyperbolic_tells_of_none(worlds: Worlds) -> None:
    world = worlds.of_hyperbolic()
    assert world.cloud.leftovers() == () and world.fake.requests == []


@pytest.mark.parametrize("broken", [{"is_in_use": "no"}, {"region": None}, {"id": 5}])
def test_an_entry_that_cannot_be_read_is_said(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch, broken: dict[str, object]
) -> None:
    world = worlds.of_lambda()
    world.fake.add_filesystem("data")
    odd = Answer(200, {"data": [world.fake.filesystems[0] | broken]})
    monkeypatch.setattr(world.fake, "_answer", lambda schema, data: odd)
    with pytest.raises(Unavailable, match="the provider's answer about file-systems has"):
        world.cloud.leftovers()


def test_what_the_provider_lists_and_whose_it_is(
    unkept: Ledger, fake: FakeLambda, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, [*RENT, "--no-prepare", "-y", "--no-wait"], 0)
    (rental,) = unkept.load().rentals
    installation = unkept.installation()
    machine(fake, rental.name)
    machine(fake, f"aq-{installation}-00000000-zzzzzz")
    for name in ("aq-other1-00000000-zzzzzz", "trainer", None):
        machine(fake, name)
    fake.add_filesystem(f"aq-{installation}-11111111-zzzzzz")
    fake.add_filesystem("dataset", in_use=True)
    listed = json.loads(said(capsys, ["hosts", "rentals", "--provider", "--json"], 1))["listed"]
    assert {(name, whose) for _, _, name, state, whose in listed if not state.startswith("filesystem")} == {
        (rental.name, "ours"),
        (f"aq-{installation}-00000000-zzzzzz", "ours, not in the ledger"),
        ("aq-other1-00000000-zzzzzz", "foreign"),
        ("trainer", "foreign"),
        ("", "foreign"),
    }
    assert [(name, state, whose) for _, _, name, state, whose in listed if state.startswith("filesystem")] == [
        (f"aq-{installation}-11111111-zzzzzz", "filesystem, billed, but not in use", "ours, not in the ledger"),
        ("dataset", "filesystem, in use", "foreign"),
    ]
    assert not [one for one in fake.machines if one.end_asked], "looking ends nothing"
