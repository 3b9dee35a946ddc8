"""The instances of the fake clouds: real hosts, as different from one another as rented ones are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.host import RentedHost
from aquarat_pipeline.hosts.transports import HostError, SshTransport
from tests.launching.network import Network, why_not
from tests.patience import wait_until
from tests.renting import cloud_init
from tests.renting.conftest import Worlds
from tests.renting.fakes.lambda_api import FakeLambda
from tests.renting.fleet import Guest, Instance, Instances, LoopbackFleet, NetworkFleet

pytestmark = pytest.mark.slow


def new_key(path: Path) -> tuple[str, str]:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
    return path.read_text(), path.with_suffix(".pub").read_text().strip()


def user_data(private: str, public: str) -> str:
    indented = "".join(f"    {line}\n" for line in private.splitlines())
    return (
        f"#cloud-config\nssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n{indented}  ed25519_public: {public}\n"
    )


@pytest.fixture(params=["network", "loopback"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Instances]:
    if why := why_not():
        pytest.skip(why)
    if request.param == "network":
        network = Network(tmp_path / "network", 0)
        yield NetworkFleet(network)
        network.close()
    else:
        made = LoopbackFleet(tmp_path / "fleet")
        yield made
        made.close()


class Renter:
    """Who orders instances of a fake, and reaches them with the keys of their orders."""

    def __init__(self, fake: FakeLambda, fleet: Instances, folder: Path) -> None:
        self.fake, self.fleet, self.folder = fake, fleet, folder
        folder.mkdir()
        _, self.public = new_key(folder / "id_ed25519")
        fake.ssh_keys.append({"id": "1", "name": "ours", "public_key": self.public})

    def rent(self, name: str, kind: str = "gpu_1x_a10") -> tuple[Instance, RentedHost]:
        """An instance whose host key is ordered, and how it is reached."""
        own = self.folder / name
        own.mkdir()
        private, public = new_key(own / "host_key")
        (own / "known_hosts").write_text(f"{name} {public}\n")
        machine = self.fake.order(name, kind, key="ours", asked={"user_data": user_data(private, public)})
        assert machine.address is not None
        fields: dict[str, Any] = {"name": name, "folder": own, "address": machine.address.host, "user": "ubuntu"}
        return self.fleet.up[machine.id], RentedHost.model_validate(fields | {"expires": 4e9})


@pytest.fixture
def renter(worlds: Worlds, fleet: Instances, tmp_path: Path) -> Iterator[Renter]:
    made = Renter(worlds.of_lambda(fleet=fleet).fake, fleet, tmp_path / "rentals")
    yield made
    assert fleet.complaints == []


def test_an_instance_is_a_host_of_its_own(renter: Renter) -> None:
    instance, host = renter.rent("a")
    other, second = renter.rent("b", "gpu_8x_h100_sxm5")
    shell = SshTransport(host).shell
    assert shell("echo $USER $HOME").stdout.decode().split() == ["ubuntu", str(instance.home)]
    assert HostAgent(host).leases() == {"leases": []}
    assert (instance.home / ".aquarat/agent").is_dir() and not (other.home / ".aquarat").exists()
    found = HostAgent(host).machine()
    assert found["gpus"] == [{"name": "NVIDIA A10", "memory_mib": 23028}] and found["driver"] == "580.95.05"
    assert len(HostAgent(second).machine()["gpus"]) == 8
    assert shell("sudo -n systemctl poweroff").returncode == 0
    assert instance.power == ["sudo -n systemctl poweroff"] and other.power == []


def test_its_end_takes_everything_along(renter: Renter) -> None:
    instance, host = renter.rent("a")
    told = SshTransport(host).shell(f"nohup sleep 600 >/dev/null 2>&1 & echo {instance.folder} >/dev/null; echo $!")
    assert told.returncode == 0
    mine = f"HOME={instance.home}".encode()

    def left() -> list[str]:
        found: list[str] = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mine in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(entry.name)
                except OSError:
                    continue
        return found

    # A process that is just being replaced by another program has no environment for a moment.
    wait_until(left, 10, "the host's process runs")
    renter.fake.end(instance.machine)
    wait_until(lambda: not left(), 10, "no process is left")
    with pytest.raises(HostError, match="cannot be reached"):
        SshTransport(host).shell("true")


def test_an_address_is_used_again_with_another_key(renter: Renter) -> None:
    """While the connection to the first host is still open here, as far as this side knows."""
    first, host = renter.rent("a")
    assert SshTransport(host).shell("true").returncode == 0
    renter.fake.end(first.machine)
    renter.fleet.next.append(Guest(used_address=True))
    second, new = renter.rent("b")
    assert second.address == first.address
    assert SshTransport(new).shell("echo $HOME").stdout.decode().strip() == str(second.home)
    with pytest.raises(HostError):
        SshTransport(host).shell("true")


def test_what_an_instance_is_like_is_played(renter: Renter) -> None:
    renter.fleet.next.append(Guest(driver="470.57.02", programs={"python3": "exit 127"}))
    renter.fleet.next.append(Guest(heeds_user_data=False))
    renter.fleet.next.append(Guest(driver=None))
    _, bare = renter.rent("bare")
    _, strange = renter.rent("strange")
    _, driverless = renter.rent("driverless")
    with pytest.raises(HostError, match="ended with 127"):
        HostAgent(bare).leases()
    assert b"470.57.02" in SshTransport(bare).shell("nvidia-smi").stdout
    with pytest.raises(HostError, match=r"[Hh]ost key verification failed"):
        SshTransport(strange).shell("true")
    assert HostAgent(driverless).machine()["gpus"] == []
    assert HostAgent(renter.rent("usual")[1]).machine()["driver"] == "580.95.05"


PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ssh_keys: {}\n", "the first line"),
        ("#!/bin/sh\ncurl https://example.org | sh\n", "the first line"),
        ("#cloud-config\nruncmd: [reboot]\n", "no business with runcmd"),
        ("#cloud-config\nssh_keys: {ed25519_private: x}\n", "only one half"),
        ("#cloud-config\nssh_keys: {ed448_private: x, ed448_public: x}\n", "does not know ed448_private"),
        ("#cloud-config\npackages: [git]\npackages: [vim]\n", "given twice"),
        ("#cloud-config\npackages: ['git; reboot']\n", "no business with packages"),
        ("#cloud-config\n- a\n", "not a mapping"),
        ("#cloud-config\na: [\n", "not YAML"),
    ],
)
def test_user_data_that_would_not_make_the_host_is_refused(text: str, why: str) -> None:
    with pytest.raises(cloud_init.UserDataError, match=why):
        cloud_init.parse(text)


def test_a_host_key_is_one_pair(tmp_path: Path) -> None:
    private, _ = new_key(tmp_path / "a")
    _, public = new_key(tmp_path / "b")
    (mixed,) = cloud_init.parse(user_data(private, public)).host_keys
    with pytest.raises(cloud_init.UserDataError, match="of another private one"):
        mixed.write(tmp_path)
    with pytest.raises(cloud_init.UserDataError, match="cannot be read"):
        cloud_init.HostKey(PRIVATE, public).write(tmp_path)
    assert cloud_init.parse("#cloud-config\npackages: [python3-venv]\n").packages == ("python3-venv",)
