"""The heartbeats of reapers in the store, and who complains while there is none on another machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.artifacts import StoreError
from aquarat_core.cli import main
from aquarat_pipeline.renting import heartbeats, watching
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.heartbeats import Heartbeat, Look, Machine, Pass, why_unprotected
from aquarat_pipeline.renting.ledger import Ledger
from tests.renting.commands import RENT, machine, said
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.world import START, World

HERE = Machine("control", "boot-0")
LAMBDA = frozenset({("lambda", "lambda")})


def beat(machine: str = "box", boot: str = "boot-1", ago: float = 60, *looks: tuple[str, str, bool]) -> Heartbeat:
    told = [Look(account=a, cloud=c, looked=ok) for a, c, ok in looks or [("lambda", "lambda", True)]]
    return Heartbeat(Pass(machine=machine, boot=boot, at=START, looks=tuple(told)), START - ago)


@pytest.mark.parametrize(
    ("beats", "protected"),
    [
        ([], False),
        ([beat()], True),
        ([beat(ago=1799)], True),
        ([beat(ago=1800)], False),
        ([beat(machine="control")], False),  # this machine, started again since
        ([beat(boot="boot-0")], False),  # a container here
        ([beat("box", "boot-1", 60, ("lambda", "lambda", False))], False),  # its key is wrong
        ([beat("box", "boot-1", 60, ("work", "lambda", True))], True),  # the same account under another name
        ([beat("box", "boot-1", 60, ("lambda", "hyperbolic", True))], False),
        ([beat(ago=4000), beat("ci")], True),
    ],
)
def test_who_counts_as_a_second_reaper(beats: list[Heartbeat], protected: bool) -> None:
    assert (why_unprotected(beats, LAMBDA, HERE, START) is None) is protected


def test_each_account_must_be_looked_at() -> None:
    two = frozenset({("a", "lambda"), ("b", "lambda")})
    one, both = beat("box", "boot-1", 60, ("x", "lambda", True)), [("x", "lambda", True), ("y", "lambda", True)]
    assert "looked at a, b for 30 min" in str(why_unprotected([one], two, HERE, START))
    assert "looked at b for" in str(why_unprotected([beat("box", "b", 60, ("a", "lambda", True))], two, HERE, START))
    assert why_unprotected([beat("box", "boot-1", 60, *both)], two, HERE, START) is None


def test_the_last_one_is_named() -> None:
    text = str(why_unprotected([beat(ago=7200), beat("ci", ago=90_000)], LAMBDA, HERE, START))
    assert "(box was there 2.0 h ago)" in text and "`aquarat hosts reap --store`" in text
    assert "(none ever was)" in str(why_unprotected([], LAMBDA, HERE, START))


def test_what_is_written_is_read_by_the_stores_clock(tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    told = beat().told
    heartbeats.write(store, "abc123", told)
    path = tmp_path / "store/rentals/abc123/reapers/box.json"
    os.utime(path, (START - 300, START - 300))
    for damaged in ("{", "[]", '{"machine": 3}', json.dumps({"version": 2, "machine": "x", "boot": "y", "at": 1})):
        path.with_name("other.json").write_text(damaged)
        assert heartbeats.read(store, "abc123") == [Heartbeat(told, START - 300)]
    assert heartbeats.read(store, "abc124") == []
    with pytest.raises(StoreError):
        heartbeats.write("file:///proc/nowhere", "abc123", told)


@pytest.mark.parametrize(("name", "key"), [("fv az/1..", "fv-az-1"), ("../../x", "x"), ("ü", "unnamed")])
def test_a_machines_name_is_made_fit_for_a_key(name: str, key: str) -> None:
    assert heartbeats.this_machine(name).name == key


AUTOMATIC: dict[str, Any] = {
    "accounts": {"mine": {"cloud": "hyperbolic", "per_day": 9}},
    "pools": {"h100": {"from": [{"account": "mine"}], "max_price_per_hour": 3, "hours": 1, "automatic": True}},
}


def test_only_what_can_cost_money_needs_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    by_hand = RentConfig.model_validate(
        {**AUTOMATIC, "pools": {"h": {**AUTOMATIC["pools"]["h100"], "automatic": False}}}
    )
    automatic = RentConfig.model_validate(AUTOMATIC)
    assert heartbeats.accounts_at_risk(world.rentals(), by_hand) == frozenset()
    assert heartbeats.accounts_at_risk(world.rentals(), automatic) == {("mine", "hyperbolic")}
    world.order()
    assert heartbeats.accounts_at_risk(world.rentals(), by_hand) == LAMBDA
    world.run(world.settled)
    assert heartbeats.accounts_at_risk(world.rentals(), by_hand) == frozenset()


def test_without_a_rental_the_store_is_not_even_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    known = watching.known_here(tmp_path, "gs://no such bucket", START)
    assert known.unprotected is None
    world.order()
    known = watching.known_here(tmp_path, "gs://no such bucket", START)
    assert "cannot be read: store 'gs://no such bucket'" in str(known.unprotected)


def test_reap_notes_its_pass_and_the_control_host_sees_it(
    unkept: Ledger,
    home: Path,
    fake: FakeLambda,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = f"file://{tmp_path}/store"
    monkeypatch.setenv("AQUARAT_STORE", store)
    machine(fake, "somebody-elses")
    said(capsys, [*RENT, "--no-prepare", "-y", "--no-wait"], 0)
    assert "no second reaper has looked at mine for 30 min (none ever was)" in said(capsys, ["hosts", "rentals"], 1)
    assert "no second reaper has looked at mine" in said(capsys, ["hosts", "doctor"], 1)
    reap = ["hosts", "reap", "--machine", "box"]
    assert "noted in" not in said(capsys, [*reap, "--dry-run"], 0)
    assert f"noted in {store} as box" in said(capsys, reap, 0)
    # Still this machine, whatever it calls itself.
    assert "no second reaper" in said(capsys, ["hosts", "rentals"], 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heartbeats, "boot_id", lambda: "another-machine")
        assert "noted in" in said(capsys, reap, 0)
    assert "no second reaper" not in said(capsys, ["hosts", "rentals"], 1)
    assert "no second reaper" not in said(capsys, ["hosts", "doctor"], 0)


def test_a_store_that_cannot_be_reached_does_not_keep_a_reaper_from_its_work(
    home: Path,
    fake: FakeLambda,
    capsys: pytest.CaptureFixture[str],
) -> None:
    overdue = machine(fake, "aq-abc123-00000000-000001")
    text = said(capsys, ["hosts", "reap", "--installation", "abc123", "--store", "file:///proc/none"], 3)
    assert f"asked to end {overdue.name}" in text and "not noted in the store: " in text


def test_the_help_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["hosts", "reap", "--help"])
    assert "--store URI" in capsys.readouterr().out
