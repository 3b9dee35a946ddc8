"""The ledger: legal states only, files that never change, and one winner of two writers."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from aquarat_pipeline.renting.ledger import Conflict, Ledger, LedgerError, create_durably
from aquarat_pipeline.renting.rental import ALIVE, FINAL, STATES, Event, IllegalTransition, Rental, State
from tests.renting.world import START, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def facts(state: State) -> dict[str, Any]:
    return {"instance_id": "i-1"} if state in ALIVE | {"ending"} else {}


def test_what_was_written_is_read_again(world: World) -> None:
    rental = world.order(hours=2, most=3, label="mine", run="r1")
    rental = world.ledger.append(rental, "asking", START + 1, "why", ssh_key="k")
    rental = world.ledger.append(rental, "granted", START + 2, instance_id="i-7", price_micros=1_290_000)
    other = Ledger(world.home)
    assert other.read(rental.id) == rental and other.load().rentals == (rental,)
    assert (rental.state, rental.instance_id, rental.asked) == ("granted", "i-7", START + 1)
    assert rental.end == START + 7200 and rental.order.last_end == START + 3 * 3600
    assert other.installation() == world.ledger.installation() == rental.order.parts.installation


def test_random_walks_write_legal_states_only(tmp_path: Path) -> None:
    """Whatever is tried, a refused event leaves no file, and every prefix of the events can be read."""
    for seed in range(40):
        chance = random.Random(seed)
        world = World(tmp_path / str(seed))
        rental = world.order()
        at = START
        for _ in range(40):
            at += chance.random() * 100
            state = chance.choice(STATES)
            before = len(list((world.ledger.folder(rental.id) / "events").iterdir()))
            try:
                rental = world.ledger.append(rental, state, at, **facts(state))
            except IllegalTransition:
                assert len(list((world.ledger.folder(rental.id) / "events").iterdir())) == before
        read = Ledger(world.home).read(rental.id)
        assert read == rental
        for n in range(len(rental.events) + 1):
            assert Rental.of(rental.order, rental.events[:n]).state in STATES


def test_nothing_happens_to_a_final_rental_unless_it_is_listed(world: World) -> None:
    for final in FINAL:
        rental = Rental.of(world.order().order, [])
        path: dict[State, list[State]] = {
            "refused": ["asking", "refused"],
            "absent": ["asking", "unclear", "absent"],
            "gone": ["asking", "granted", "ending", "gone"],
        }
        for state in path[final]:
            rental = rental.followed_by(Event.model_validate({"state": state, "at": 1.0, **facts(state)}))
        for state in STATES:
            event = Event.model_validate({"state": state, "at": 2.0, **facts(state)})
            if state == "ending":
                assert rental.followed_by(event).ended is None
            else:
                with pytest.raises(IllegalTransition):
                    rental.followed_by(event)


def test_no_rental_outlives_the_end_in_its_name(world: World) -> None:
    rental = world.order(hours=1, most=2)
    assert world.ledger.append(rental, "intended", START, end=START + 7200).end == START + 7200
    with pytest.raises(IllegalTransition, match="cannot outlive"):
        world.ledger.append(rental, "intended", START, end=START + 7201)


def test_of_two_writers_one_wins(world: World) -> None:
    rental = world.order()
    world.ledger.append(rental, "asking", START)
    with pytest.raises(Conflict):
        Ledger(world.home).append(rental, "refused", START)
    assert world.ledger.read(rental.id).state == "asking"
    with pytest.raises(Conflict):
        world.ledger.order(rental.order)


def test_many_processes_write_each_event_once(world: World) -> None:
    """Real processes race for the same numbers."""
    rental = world.order()
    program = (
        "import sys; from pathlib import Path; from aquarat_pipeline.renting.ledger import Conflict, Ledger\n"
        "ledger = Ledger(Path(sys.argv[1])); won = 0\n"
        "while won < 20:\n"
        "    rental = ledger.read(sys.argv[2])\n"
        "    try: ledger.append(rental, 'intended', 1.0, sys.argv[3]); won += 1\n"
        "    except Conflict: pass\n"
    )
    argv = [sys.executable, "-c", program, str(world.home), rental.id]
    running = [subprocess.Popen([*argv, str(n)]) for n in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    events = Ledger(world.home).read(rental.id).events
    assert sorted(event.why for event in events) == sorted("012" * 20)


def test_a_folder_without_an_order_was_never_asked_for(world: World) -> None:
    (world.ledger.folder("abcdefgh") / "events").mkdir(parents=True)
    (world.ledger.folder("abcdefgh") / ".order.json.1.torn").write_text("{")
    assert world.ledger.load() == Ledger(world.home).load()
    assert world.ledger.load().rentals == () and world.ledger.load().problems == ()


@pytest.mark.parametrize("damage", ["missing", "torn", "foreign", "illegal", "nan", "deep", "order"])
def test_a_damaged_rental_is_a_problem_and_spoils_no_other(world: World, damage: str) -> None:
    well, rental = world.order(), world.order()
    for state in ("asking", "granted"):
        rental = world.ledger.append(rental, state, START, **facts(state))
    folder = world.ledger.folder(rental.id)
    second = folder / "events" / "000002.json"
    match damage:
        case "missing":
            (folder / "events" / "000001.json").unlink()
        case "order":
            order = json.loads((folder / "order.json").read_text())
            (folder / "order.json").unlink()
            (folder / "order.json").write_text(json.dumps(order | {"max_price_micros": -1}))
        case _:
            second.unlink()
            text = {"torn": '{"st', "foreign": "[]", "illegal": '{"state": "gone", "at": 1}', "deep": "[" * 99_999}
            second.write_text(text.get(damage, '{"state": "granted", "at": NaN, "instance_id": "i"}'))
    loaded = Ledger(world.home).load()
    assert [one.id for one in loaded.rentals] == [well.id] and rental.id in loaded.problems[0]
    assert len(loaded.problems) == 1 and "\n" not in loaded.problems[0]


def test_a_ledger_that_was_put_back_is_read_anew(world: World) -> None:
    rental = world.order()
    for state in ("asking", "unclear", "absent"):
        rental = world.ledger.append(rental, state, START)
    events = world.ledger.folder(rental.id) / "events"
    (events / "000003.json").unlink()
    assert world.ledger.read(rental.id).state == "unclear"
    (events / "000002.json").unlink()
    create_durably(events / "000002.json", {"state": "refused", "at": 1.0})
    assert world.ledger.read(rental.id).state == "refused"


def test_a_damaged_installation_is_said(world: World) -> None:
    world.ledger.installation()
    path = world.home / "aquarat" / "installation"
    path.write_text('"UPPER!"')
    with pytest.raises(LedgerError, match="is damaged"):
        world.ledger.installation()


def test_files_are_for_this_user_and_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    world = World(tmp_path / "home")
    rental = world.order()
    synced.clear()
    rental = world.ledger.append(rental, "asking", START)
    events = world.ledger.folder(rental.id) / "events"
    assert [Path(path).parent if ".json" in path else Path(path) for path in synced] == [events, events]
    assert ".000001.json." in synced[0]
    for path in (tmp_path / "home" / "aquarat").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077
    assert [path.name for path in events.iterdir()] == ["000001.json"], "no hidden file is left"


def test_every_state_can_be_reached_and_left() -> None:
    assert set(get_args(State)) == set(STATES) and set(STATES) > FINAL | ALIVE
