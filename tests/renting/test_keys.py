"""The installation's ssh key in an account: found by the key itself, made if it is missing."""

from __future__ import annotations

import pytest

from aquarat_pipeline.renting.clouds.model import Unavailable
from tests.renting.conftest import PUBLIC_KEY, Worlds
from tests.renting.fakes.script import once

KEY_ITSELF = " ".join(PUBLIC_KEY.split()[:2])


def test_a_key_is_made_once(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    assert world.cloud.ensure_ssh_key("aquarat-abc123", PUBLIC_KEY) == "aquarat-abc123"
    assert world.cloud.ensure_ssh_key("aquarat-abc123", PUBLIC_KEY) == "aquarat-abc123"
    assert [one["public_key"] for one in world.fake.ssh_keys] == [PUBLIC_KEY]


def test_a_key_is_found_under_another_name_and_comment(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    world.fake.ssh_keys.append({"id": "1", "name": "laptop", "public_key": f"{KEY_ITSELF} me@laptop"})
    assert world.cloud.ensure_ssh_key("aquarat-abc123", PUBLIC_KEY) == "laptop"
    assert len(world.fake.ssh_keys) == 1


def test_another_key_of_the_name_is_not_taken(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    for name in ("aquarat-abc123", "aquarat-abc123-2"):
        world.fake.ssh_keys.append({"id": name, "name": name, "public_key": "ssh-ed25519 AAAAother me"})
    assert world.cloud.ensure_ssh_key("aquarat-abc123", PUBLIC_KEY) == "aquarat-abc123-3"
    assert world.fake.ssh_keys[-1]["public_key"] == PUBLIC_KEY


def test_a_deleted_key_is_made_again(worlds: Worlds) -> None:
    world = worlds.of_lambda()
    world.cloud.ensure_ssh_key("aquarat-abc123", PUBLIC_KEY)
    world.fake.ssh_keys.clear()
    world.cloud.ensure_ssh_key("aquarat-abc123", PUBLIC_KEY)
    assert len(world.fake.ssh_keys) == 1


@pytest.mark.parametrize("effect", ["500", "html 200", "cut"])
def test_keys_that_cannot_be_read_are_not_made(worlds: Worlds, effect: str) -> None:
    world = worlds.of_lambda(once("keys", effect))  # pyright: ignore[reportArgumentType]
    with pytest.raises(Unavailable):
        world.cloud.ensure_ssh_key("aquarat-abc123", PUBLIC_KEY)
    assert world.fake.ssh_keys == []
