"""When a keeper's process may end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from aquarat_core.errors import UserError
from aquarat_pipeline.renting import keeping
from aquarat_pipeline.renting.clouds.cloud import Surroundings
from aquarat_pipeline.renting.keeper import Keeper, Turn
from tests.renting.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "home", seconds=time.time())


def test_a_keeper_without_keys_makes_room_for_one_that_has_them(world: World, tmp_path: Path) -> None:
    """Such as one that was started from a shell without .env: while it lived, no other could end what is rented."""
    world.order()
    with pytest.raises(UserError, match="can ask no account"):
        keeping.keep(world.home, Surroundings(tmp_path / "rates", {}))
    assert not keeping.is_alive(world.home) and world.only().state == "intended"


def test_what_is_ordered_while_a_keeper_ends_is_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Turn] = []

    def turn(_: Keeper) -> Turn:
        turns.append(Turn())
        if len(turns) == 1:
            world.order()
            assert not keeping.start(world.home), "a keeper is at work"
        else:
            world.ledger.append(world.only(), "refused", world.now())
        return turns[-1]

    monkeypatch.setattr(Keeper, "turn", turn)
    keeping.keep(world.home, Surroundings(tmp_path / "rates", {}))
    assert len(turns) == 2 and not keeping.is_alive(world.home)
