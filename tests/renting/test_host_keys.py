"""Host keys of rented hosts: made for an order, told by a provider, or seen; and known before the first connection."""

from __future__ import annotations

import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from aquarat_core.errors import UsageError
from aquarat_pipeline.renting.clouds.cloud import Account, Surroundings, connect
from aquarat_pipeline.renting.managed import host_keys
from aquarat_pipeline.renting.managed.host_keys import NoHostKeyError
from tests.renting.small_cloud import CAPABILITIES
from tests.renting.world import Points, World, killed_at_points
from tests.serving import free_port

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFak"


def test_an_order_carries_a_key_that_is_known_before_it_is_sent(tmp_path: Path) -> None:
    text = host_keys.ordered(tmp_path, "abcd1234")
    assert text.startswith("#cloud-config\n")
    given = yaml.safe_load(text)
    assert set(given) == {"ssh_deletekeys", "ssh_keys"}
    assert set(given["ssh_keys"]) == {"ed25519_private", "ed25519_public"}
    private = tmp_path / "copy"
    private.touch(0o600)
    private.write_text(given["ssh_keys"]["ed25519_private"])
    derived = subprocess.run(["ssh-keygen", "-y", "-f", private], capture_output=True, text=True, check=True).stdout
    public = given["ssh_keys"]["ed25519_public"].split()[:2]
    assert derived.split()[:2] == public
    assert (tmp_path / "known_hosts").read_text() == f"abcd1234 {' '.join(public)}\n"
    assert not host_keys.was_seen(tmp_path)
    for name in ("host_key", "known_hosts"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert host_keys.ordered(tmp_path, "abcd1234") == text, "until it is sent, an order keeps its key"
    host_keys.discard(tmp_path)
    host_keys.discard(tmp_path)
    assert not (tmp_path / "host_key").exists() and host_keys.is_pinned(tmp_path)
    assert host_keys.fingerprint(tmp_path).startswith("SHA256:")


def test_half_a_key_is_made_again(tmp_path: Path) -> None:
    host_keys.ordered(tmp_path, "abcd1234")
    (tmp_path / "host_key.pub").unlink()
    text = host_keys.ordered(tmp_path, "abcd1234")
    assert yaml.safe_load(text)["ssh_keys"]["ed25519_public"].split()[1] in (tmp_path / "known_hosts").read_text()


def test_keys_that_were_seen_are_told_apart(tmp_path: Path) -> None:
    assert not host_keys.is_pinned(tmp_path)
    host_keys.pin(tmp_path, "r", [f"{KEY} comment", "ecdsa-sha2-nistp256 AAAA"], seen=True)
    assert host_keys.was_seen(tmp_path)
    lines = (tmp_path / "known_hosts").read_text().splitlines()
    assert lines[1:] == [f"r {KEY}", "r ecdsa-sha2-nistp256 AAAA"]
    host_keys.pin(tmp_path, "r", [KEY])
    assert not host_keys.was_seen(tmp_path)


def test_nobody_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoHostKeyError, match=r"no sshd shows a key at 127\.0\.0\.1 port"):
        host_keys.look("127.0.0.1", free_port())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoHostKeyError, match="ssh-keygen is not installed: install the OpenSSH client"):
        host_keys.ordered(tmp_path, "abcd1234")


def test_the_private_key_is_in_the_order_alone(tmp_path: Path) -> None:
    """Wherever the keeper is killed, nothing of it is left when the answer is known."""
    for kill_at in range(1, 20):
        world = World(tmp_path / str(kill_at), points=Points(kill_at))
        with killed_at_points(world.points):
            try:
                rental = world.order(hours=1)
            except BaseException:
                continue
            world.run(lambda world=world: world.only().state == "ready" or world.only().final)
        folder = world.ledger.folder(rental.id)
        assert not (folder / "host_key").exists()
        if not world.cloud.orders:
            continue
        given = yaml.safe_load(world.cloud.orders[0].user_data or "")["ssh_keys"]
        assert " ".join(given["ed25519_public"].split()[:2]) in (folder / "known_hosts").read_text()
        secret = given["ed25519_private"].splitlines()[-3]
        assert not [path for path in world.home.rglob("*") if path.is_file() and secret in path.read_text()]


def test_no_key_is_sent_where_it_would_not_be_taken(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cloud.capabilities = replace(CAPABILITIES, user_data=False, host_key="first_use")
    rental = world.order()
    world.turn()
    assert [order.user_data for order in world.cloud.orders] == [None]
    assert not host_keys.is_pinned(world.ledger.folder(rental.id))


def test_an_account_of_lambda_can_trust_the_first_look(tmp_path: Path) -> None:
    """In case its images do not take the key of the order."""

    def way(**options: object) -> str:
        surroundings = Surroundings(tmp_path, {"LAMBDA_API_KEY": "key"})
        return connect(Account("mine", "lambda", options=options), surroundings).capabilities.host_key

    assert (way(), way(host_key="user_data"), way(host_key="first_use")) == ("user_data", "user_data", "first_use")
    for wrong in ({"host_key": "none"}, {"hostkey": "first_use"}):
        with pytest.raises(UsageError, match="mine: the only option is host_key: user_data or first_use"):
            way(**wrong)
