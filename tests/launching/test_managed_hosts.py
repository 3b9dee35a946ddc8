"""A keeper makes hosts of rented instances, uses them and takes them out again: with real ssh, agents and preparation.

The instances are sshds on loopback, whose driver and Python are played by scripts; the provider is the small cloud of
the renting tests. Time is the world's: it stands still while a host is being worked on.
"""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from aquarat_pipeline.hosts import rentals
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.host import RentedHost
from aquarat_pipeline.hosts.inventory import read_inventory
from aquarat_pipeline.hosts.transports import SshTransport
from aquarat_pipeline.renting.clouds.model import Endpoint
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.managed import host_keys
from aquarat_pipeline.renting.managed.managing import ManagedHosts
from aquarat_pipeline.renting.rental import Rental
from tests.folders import contents_below
from tests.launching.network import SSHD, Keys, Sshd
from tests.patience import wait_until
from tests.renting.small_cloud import CAPABILITIES
from tests.renting.world import World
from tests.serving import free_port

DRIVER = "580.65.06"


class Instance:
    """An sshd on loopback with a home, a driver and a host key of its own."""

    def __init__(self, directory: Path, port: int, client: Path, driver: str = DRIVER, python: str = sys.executable):
        self.keys = Keys(directory)
        shutil.copy(client.with_suffix(".pub"), self.keys.client.with_suffix(".pub"))
        self.port = port
        self.programs = directory / "programs"
        self.programs.mkdir()
        for path in Path("/usr/bin").iterdir():
            if not path.name.startswith(("python", "pip", "nvidia", "uv", "sudo", "systemctl")):
                (self.programs / path.name).symlink_to(path)
        if python:
            self.program("python3", f'exec {python} "$@"')
        self.driver(driver)
        self.server: Sshd | None = None

    def program(self, name: str, script: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)

    def driver(self, version: str) -> None:
        listing = f'[ "$1" = -L ] && echo "GPU 0: NVIDIA A10" || echo "NVIDIA A10, {version}, 23028 MiB"'
        if version:
            self.program("nvidia-smi", listing)
        else:
            (self.programs / "nvidia-smi").unlink(missing_ok=True)

    def cloud_init(self, user_data: str) -> None:
        """Takes the host key of the order, as cloud-init does."""
        given = yaml.safe_load(user_data.removeprefix("#cloud-config\n"))
        assert set(given) == {"ssh_keys", "ssh_deletekeys"} and given["ssh_deletekeys"] is True
        self.keys.host.write_text(given["ssh_keys"]["ed25519_private"])
        self.keys.host.with_suffix(".pub").write_text(given["ssh_keys"]["ed25519_public"])
        derived = subprocess.run(["ssh-keygen", "-y", "-f", self.keys.host], capture_output=True, text=True, check=True)
        assert derived.stdout.split()[:2] == given["ssh_keys"]["ed25519_public"].split()[:2]

    def start(self) -> None:
        self.server = Sshd(
            self.keys, "127.0.0.1", self.port, {"PATH": str(self.programs), "HOME": str(self.keys.directory)}
        )

    def stop(self) -> None:
        """Its network is gone; what runs on it goes on."""
        if self.server:
            self.server.stop()

    @property
    def key(self) -> str:
        return " ".join(self.keys.host.with_suffix(".pub").read_text().split()[:2])

    @property
    def root(self) -> Path:
        return self.keys.directory / ".aquarat"


class Renting(World):
    """A world whose hosts are real."""

    def __init__(self, directory: Path, checkout: Path) -> None:
        self.directory, self.checkout = directory, checkout
        home = directory / "home"
        super().__init__(home, config=_config())
        self.cloud.boot = 0
        self.port = free_port()
        self.cloud.endpoint = Endpoint("127.0.0.1", self.port, getpass.getuser(), None)
        folder = rentals.folder_of(home)
        folder.mkdir(parents=True)
        self.client = folder / "id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.client], check=True)
        self.instances: list[Instance] = []
        self.restart()

    def restart(self) -> None:
        """Another keeper goes on; what the last one had begun goes on too."""
        self.hosts = ManagedHosts(
            self.home, self.now, lambda _: self.cloud, lambda: self.config, checkout=self.checkout,
            pip_options=f"--no-index --find-links {self.checkout.parent}/index", power_off=False,
            fields={"min_free_gb": 0},
        )  # fmt: skip
        self.keeper = self.started()

    def instance(self, **how: Any) -> Instance:
        made = Instance(self.directory / f"i{len(self.instances)}", self.port, self.client, **how)
        self.instances.append(made)
        return made

    def rented(self, instance: Instance, **order: Any) -> Rental:
        """An order that is granted and boots, with the host key that it was given, if any."""
        made = self.order(hours=8, managed=True, **{"pool": "small", **order})
        self.until(lambda: bool(self.cloud.orders))
        if user_data := self.cloud.orders[-1].user_data:
            instance.cloud_init(user_data)
        instance.start()
        return made

    def step(self, seconds: float = 5) -> None:
        """One turn, after which time stands still until the hosts have answered."""
        self.turn(seconds)
        assert isinstance(self.hosts, ManagedHosts)
        for kept in self.hosts._all.values():
            for work in (kept.work, kept.watch):
                wait_until(lambda work=work: work is None or work.done, 120, "the host has answered")

    def until(self, done: Callable[[], bool], limit: float = 3600, seconds: float = 5) -> None:
        """Steps of so many seconds until it is `done`."""
        end = self.seconds + limit
        while not done():
            assert self.seconds < end, [(e.state, e.why) for e in self.rentals()[-1].events]
            self.step(seconds)

    def state(self) -> str:
        return self.only().state

    def why(self) -> str:
        """Why it was to end."""
        return next(event.why for event in self.only().events if event.state == "ending")

    def host(self) -> RentedHost:
        found = read_inventory(self.home).get(f"small-{self.only().id}")
        assert isinstance(found, RentedHost)
        return found

    def listed(self) -> list[str]:
        return [host.name for host in read_inventory(self.home).hosts if isinstance(host, RentedHost)]

    def close(self) -> None:
        for rental in self.rentals():
            self.hosts.forget(rental)
        for instance in self.instances:
            instance.stop()
            # Its switch, and what a keeper that was "killed" had begun.
            subprocess.run(["pkill", "-KILL", "-f", f"{instance.root}/"])


def _config(**more: Any) -> RentConfig:
    pool = {"from": [{"account": "lambda"}], "max_price_per_hour": 2, "hours": 8, "env": {"COLOUR": "blue"},
            "forward": ["WANDB_API_KEY"], **more.pop("pool", {})}  # fmt: skip
    limits = {"download_mb_s": 0.1, **more.pop("limits", {})}
    return RentConfig.model_validate(
        {"accounts": {"lambda": {"cloud": "lambda"}}, "pools": {"small": pool}, "limits": limits}
    )


@pytest.fixture
def world(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Renting]:
    if not shutil.which(SSHD) or not shutil.which("ssh"):
        pytest.skip("there is no sshd: install openssh-server and openssh-client")
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("AQUARAT_STORE", f"file://{tmp_path}/store")
    config = tmp_path / "ssh_config"
    config.write_text(f"Host *\n  User nobody\n  UserKnownHostsFile {tmp_path}/none\n")
    monkeypatch.setenv("AQUARAT_SSH_CONFIG", str(config))
    made = Renting(tmp_path / "world", checkout)
    yield made
    made.close()


pytestmark = pytest.mark.slow


def test_from_order_to_inventory_and_out_again(world: Renting) -> None:
    instance = world.instance()
    rental = world.rented(instance)
    folder = rentals.folder_of(world.home, rental.id)
    assert not (folder / "host_key").exists(), "the private key was needed for the order alone"
    assert instance.key in (folder / "known_hosts").read_text()
    secret = instance.keys.host.read_text().splitlines()[-3]
    assert not [path for path, text in contents_below(world.home / "aquarat").items() if secret.encode() in text]
    world.until(lambda: world.state() == "ready")
    host = world.host()
    assert (host.labels, host.gpus, host.gpu_kind, host.price_per_hour) == (("small",), 1, "A10", 1.29)
    assert (host.env, host.forward, host.max_leases) == ({"COLOUR": "blue"}, ("WANDB_API_KEY",), 1)
    assert host.expires == world.only().end and (instance.root / "env/bin/python").exists()
    switch = json.loads((instance.root / "switch.json").read_text())
    assert switch["fired"] is None and switch["power_off"] is False
    found = {event.state: event.why for event in world.only().events if event.why}
    assert "is the one that was expected" in found["reachable"] and "SHA256:" in found["reachable"]
    assert found["fit"].startswith("1 NVIDIA A10, driver 580.65.06, ") and "cuda13" in found["fit"]
    assert found["ready"].endswith("was made")
    world.until(lambda: world.state() == "ending", 1800, 60)
    assert world.listed() == []
    wait_until(lambda: not masters(host), 20, "the connection is closed")
    assert "nothing runs on it" in world.why() and "takes no more jobs: its rental ends" in busy(instance)
    world.run(world.settled)
    world.check()


def masters(host: RentedHost) -> str:
    """The processes that hold the shared connection of the host open."""
    return subprocess.run(["pgrep", "-f", host.connection], capture_output=True, text=True).stdout


def lease(owner: str = "run-1") -> Any:
    return {
        "id": "a", "mark": "a", "job": "a", "owner": owner, "step": "sft", "gpus": 1, "host_gpus": 1, "max_leases": 1,
        "ttl": 3600, "node": 0, "host": "x",
    }  # fmt: skip


def busy(instance: Instance) -> str:
    """Why the instance takes no job."""
    from aquarat_core.agent import leases

    found = leases.acquire(instance.root, lease())
    assert "busy" in found
    return found["busy"]


def unfit(world: Renting, limit: float = 900) -> str:
    """Why it is ended before it is ready."""
    world.until(lambda: world.state() == "ending", limit)
    assert world.listed() == [] and world.only().unfit
    why = world.why()
    world.run(world.settled)
    world.check()
    return why


def test_a_key_that_is_not_the_ordered_one_ends_it(world: Renting) -> None:
    instance = world.instance()
    world.order(hours=8, managed=True, pool="small")
    world.until(lambda: bool(world.cloud.orders))
    instance.start()
    began = world.seconds
    assert "its host key is not the one that was pinned" in unfit(world)
    assert world.seconds - began < 300


def test_an_address_that_another_customer_has_now_ends_it(world: Renting) -> None:
    instance = world.instance()
    world.rented(instance)
    world.until(lambda: world.state() == "ready")
    host = world.host()
    instance.stop()
    SshTransport(host).close()
    other = world.instance()
    other.start()
    assert "its host key is not the one that was pinned" in unfit(world, 120)
    assert not other.root.exists(), "nothing was sent to the stranger"


def test_a_rental_at_the_address_of_an_earlier_one_has_its_own_key(world: Renting) -> None:
    first = world.instance()
    old = world.rented(first)
    world.until(lambda: world.state() == "ready")
    world.ledger.append(world.only(), "ready", world.now(), end_asked="now")
    world.run(world.settled)
    first.stop()
    second = world.instance()
    made = world.order(hours=8, managed=True, pool="small")
    world.until(lambda: len(world.cloud.orders) == 2)
    second.cloud_init(world.cloud.orders[-1].user_data or "")
    second.start()
    world.until(lambda: world.ledger.read(made.id).state == "ready")
    assert world.listed() == [f"small-{made.id}"] and made.id != old.id
    assert second.key in (rentals.folder_of(world.home, made.id) / "known_hosts").read_text()


def test_a_key_by_the_first_look_is_said_and_forwards_nothing(world: Renting) -> None:
    world.cloud.capabilities = replace(CAPABILITIES, user_data=False, host_key="first_use")
    instance = world.instance()
    rental = world.rented(instance)
    assert world.cloud.orders[-1].user_data is None
    world.until(lambda: world.state() == "ready")
    said = next(event.why for event in world.only().events if event.state == "reachable")
    assert "was seen at the first look, and nobody vouches for it" in said
    folder = rentals.folder_of(world.home, rental.id)
    assert host_keys.was_seen(folder) and instance.key in (folder / "known_hosts").read_text()
    assert world.host().forward == () and world.host().env == {"COLOUR": "blue"}
    SshTransport(world.host()).close()
    instance.stop()
    other = world.instance()
    other.start()
    assert "its host key is not the one that was pinned" in unfit(world, 120)


def test_a_key_that_the_provider_tells_is_awaited(world: Renting) -> None:
    world.cloud.capabilities = replace(CAPABILITIES, host_key="guest_attributes")
    instance = world.instance()
    rental = world.rented(instance)
    for _ in range(5):
        world.step()
    assert world.state() == "booting" and not (rentals.folder_of(world.home, rental.id) / "known_hosts").exists()
    world.cloud.keys = (instance.key, "ecdsa-sha2-nistp256 AAAA")
    world.until(lambda: world.state() == "fit")


@pytest.mark.parametrize(
    ("how", "why", "within"),
    [
        ({"driver": "470.57.02"}, "its NVIDIA driver 470.57.02 is too old", 60),
        ({"driver": ""}, "it has no NVIDIA driver, but 1 GPUs are promised", 200),
        ({"python": ""}, "it has no Python 3.8 or newer, which our agent needs", 60),
    ],
)
def test_an_unfit_host_is_ended_within_minutes(world: Renting, how: Any, why: str, within: float) -> None:
    world.rented(world.instance(**how))
    began = world.seconds
    world.until(lambda: world.state() == "ending")
    assert world.seconds - began < within
    assert why in unfit(world)


def test_a_driver_that_comes_up_a_little_later_is_waited_for(world: Renting) -> None:
    instance = world.instance(driver="")
    world.rented(instance)
    world.until(lambda: world.state() == "reachable")
    for _ in range(4):
        world.step()
    assert world.state() == "reachable"
    instance.driver(DRIVER)
    world.until(lambda: world.state() == "ready")


def test_a_slow_download_is_unfit(world: Renting) -> None:
    world.config = _config(limits={"download_mb_s": 1e9})
    world.rented(world.instance())
    assert "MB/s from the store, and 1e+09 MB/s are needed" in unfit(world)


def test_another_gpu_than_the_offered_one_is_unfit(world: Renting) -> None:
    instance = world.instance()
    instance.program("nvidia-smi", 'echo "Tesla T4, 580.65.06, 15360 MiB"')
    world.rented(instance)
    assert "a A10 was offered, but the driver shows Tesla T4" in unfit(world)


def test_what_cannot_be_installed_is_unfit_after_three_tries(world: Renting, checkout: Path) -> None:
    shutil.rmtree(checkout.parent / "index")
    world.rented(world.instance())
    began = world.seconds
    assert "it could not be prepared" in unfit(world) and world.seconds - began < 900


def test_a_host_that_never_answers_is_ended_with_the_reason(world: Renting) -> None:
    instance = world.instance()
    world.rented(instance)
    instance.stop()
    world.until(lambda: world.state() == "ending", 900, 60)
    assert "it was not reachable in time: " in unfit(world) and "cannot be reached" in world.why()


def test_a_broken_rent_yaml_puts_the_entry_into_the_inventory_off(world: Renting, tmp_path: Path) -> None:
    from aquarat_pipeline.renting.config import RentConfigError

    def broken() -> RentConfig:
        raise RentConfigError("rent.yaml: line 3")

    world.rented(world.instance())
    world.until(lambda: world.state() == "fit")
    assert isinstance(world.hosts, ManagedHosts)
    world.hosts._config = broken
    for _ in range(3):
        world.step()
    assert world.state() == "fit" and world.listed() == []
    world.hosts._config = lambda: world.config
    world.until(lambda: world.state() == "ready")


@pytest.mark.parametrize("state", ["granted", "booting", "reachable", "fit", "ready"])
def test_a_keeper_that_is_killed_is_followed_by_another(world: Renting, state: str) -> None:
    """While a thread of the first one is still at work on the host."""
    instance = world.instance()
    world.rented(instance)
    world.until(lambda: world.state() == state)
    world.turn()
    world.restart()
    world.until(lambda: world.state() == "ready")
    assert world.host().expires == world.only().end
    world.turn()
    world.restart()
    world.until(lambda: world.state() == "ending", 1800, 60)
    assert world.listed() == []
    world.run(world.settled)
    world.check()


# --- at work ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(world: Renting) -> Instance:
    instance = world.instance()
    world.rented(instance)
    world.until(lambda: world.state() == "ready")
    return instance


def at_work(world: Renting, owner: str = "run-1") -> None:
    reply = HostAgent(world.host()).reserve(lease(owner))
    assert reply["state"] == "reserved"


def test_the_ledger_says_which_runs_use_it_and_it_is_not_idle_meanwhile(world: Renting, ready: Instance) -> None:
    at_work(world)
    world.until(lambda: world.only().runs == {"run-1": 1})
    for _ in range(30):
        world.step(60)
    assert world.state() == "ready"
    HostAgent(world.host()).release("a")
    world.until(lambda: not world.only().runs)
    world.until(lambda: world.state() == "ending", seconds=60)
    assert "nothing runs on it" in world.why()


def test_the_end_that_was_moved_is_in_the_inventory(world: Renting, ready: Instance) -> None:
    rental = world.only()
    world.ledger.append(rental, "ready", world.now(), "sooner", end=rental.end - 3600)
    world.step()
    assert world.host().expires == rental.end - 3600
    switch = json.loads((ready.root / "switch.json").read_text())
    ends = switch["ends"] - time.clock_gettime(time.CLOCK_BOOTTIME) + world.now()
    assert abs(ends - (rental.end - 3600)) < 120


def test_a_drained_host_waits_for_its_job_and_lets_none_begin(world: Renting, ready: Instance) -> None:
    at_work(world)
    world.until(lambda: bool(world.only().runs))
    world.ledger.append(world.only(), "ready", world.now(), "please", end_asked="drain")
    world.until(lambda: world.state() == "draining")
    for _ in range(10):
        world.step()
    assert world.state() == "draining"
    host = world.host()
    assert host.why_no_job(world.now()) and host.expires < world.only().end
    HostAgent(host).release("a")
    world.until(lambda: world.state() == "ending", 60)
    assert "takes no more jobs" in busy(ready) and world.listed() == []


def test_it_ends_in_time_although_something_holds_on(world: Renting, ready: Instance) -> None:
    """A reserved lease has no process that could be stopped."""
    at_work(world)
    world.until(lambda: bool(world.only().runs))
    world.seconds = world.only().end - 900
    world.until(lambda: world.state() == "draining", seconds=60)
    world.until(lambda: world.state() == "ending", 900, 30)
    assert world.why() == "its time is over" and world.only().since <= world.only().end + 60
    assert world.listed() == []


def test_a_host_that_vanishes_is_lost_after_its_time(world: Renting, ready: Instance) -> None:
    at_work(world)
    world.until(lambda: bool(world.only().runs))
    ready.stop()
    SshTransport(world.host()).close()
    began = world.seconds
    world.until(lambda: world.state() == "ending", 1800, 60)
    assert "lost: no sign of life for 1" in world.why() and 900 <= world.seconds - began < 1200
    assert world.only().unfit is None and world.listed() == []


def test_heartbeats_in_the_store_are_signs_of_life(world: Renting, ready: Instance, tmp_path: Path) -> None:
    at_work(world)
    world.until(lambda: bool(world.only().runs))
    status = tmp_path / "store/jobs/run-1/sft/1/status/node0.json"
    status.parent.mkdir(parents=True)
    host = world.host()
    ready.stop()
    SshTransport(host).close()

    def beat(sequence: int) -> None:
        running = {"state": "running", "node": 0, "host": host.name, "sequence": sequence, "chunks": 0}
        status.write_text(json.dumps({**running, "supervisor": {"boot": "b", "pid": 1, "started": 1}}))

    for sequence in range(30):
        beat(sequence)
        world.step(60)
    assert world.state() == "ready" and world.only().runs == {"run-1": 1}
    world.until(lambda: world.state() == "ending", 1200, 60)
    assert "lost: no sign of life" in world.why()


def test_a_keeper_that_was_away_looks_before_it_gives_a_host_up(world: Renting, ready: Instance) -> None:
    at_work(world)
    world.until(lambda: bool(world.only().runs))
    world.seconds += 3600
    world.restart()
    for _ in range(3):
        world.step()
    assert world.state() == "ready"


def test_a_switch_that_has_fired_ends_the_rental(world: Renting, ready: Instance) -> None:
    host = world.host()
    HostAgent(host).arm({"end_in": 0, "orphan_after": 60, "power_off": False})
    wait_until(lambda: json.loads((ready.root / "switch.json").read_text())["fired"], 20, "the switch fires")
    world.until(lambda: world.state() == "ending", 60)
    assert "its dead-man's switch has fired: the rental is over" in world.why()
