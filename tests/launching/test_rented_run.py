"""A run on rented hosts: its need is written down while none fits, and it goes on elsewhere when its rental ends."""

from __future__ import annotations

import getpass
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from aquarat_pipeline.hosts import rentals
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.doctor import examine
from aquarat_pipeline.hosts.host import RentedHost
from aquarat_pipeline.hosts.inventory import read_inventory
from aquarat_pipeline.hosts.queueing import queue, ticket, waiting_steps
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.jobs.usage import uses
from aquarat_pipeline.renting.clouds.model import Endpoint
from aquarat_pipeline.renting.config import RentConfig
from aquarat_pipeline.renting.managed import host_keys
from aquarat_pipeline.renting.managed.managing import ManagedHosts
from aquarat_pipeline.renting.money import Money, bill
from aquarat_pipeline.tags import COST_TAG, LEASE_TAG, RENTAL_TAG
from tests.launching.asking import turn
from tests.launching.cluster_fixture import Cluster
from tests.launching.kill_scenarios import ASSET, STEPS, expect
from tests.launching.network import Network, why_not
from tests.patience import wait_until
from tests.renting.world import World

NEED = Requirement(True, ranks=8, device="cuda", pool="h100")


def test_a_step_that_fits_no_host_says_what_it_needs(tmp_path: Path) -> None:
    """And keeps no host from others: not even those of too few."""
    (tmp_path / "hosts.yaml").write_text("hosts: [{name: a, address: x, gpus: 8, labels: [h100]}]")
    two = Requirement(True, ranks=8, nodes=2, device="cuda", pool="h100")
    before = time.time()
    assert waiting_steps(tmp_path) == []
    with (
        ticket(tmp_path, "run-1", "rl_checkpoint", 1.0, two) as first,
        ticket(tmp_path, "run-2", "sft_checkpoint", 2.0, NEED) as second,
    ):
        turn(tmp_path)
        assert first.answer().why.startswith("2 hosts labeled h100 with 8 GPUs: hosts.yaml has 1 of these; add one")
        assert second.answer().hosts == ("a",)
        rl, sft = waiting_steps(tmp_path)
        assert (rl.run_id, rl.step, rl.need) == ("run-1", "rl_checkpoint", two)
        assert (sft.run_id, sft.step, sft.need) == ("run-2", "sft_checkpoint", NEED)
        assert before <= rl.waiting_since <= time.time()
    assert waiting_steps(tmp_path) == []


def test_tickets_of_other_versions_and_of_the_dead(tmp_path: Path) -> None:
    with ticket(tmp_path, "run", "step", 5.0, Requirement(True)) as mine:
        turn(tmp_path)
        assert mine.answer().hosts == ("local",)
        path = queue(tmp_path) / f"{mine.name}.json"
        record = json.loads(path.read_text())
        older = {name: record[name] for name in ("process", "run", "step", "since", "need")} | {"hosts": ["local"]}
        newer = record | {"run": "new", "colour": "blue", "need": record["need"] | {"colour": "blue"}}
        dead = record | {"run": "dead", "process": record["process"] | {"started": 1}}
        for number, other in enumerate((older, newer, dead, [])):
            (path.parent / f"{1.0:017.3f}-{number}.json").write_text(json.dumps(other))
        assert [step.run_id for step in waiting_steps(tmp_path)] == ["run", "new", "run"]
        mine.refuse(mine.answer().number, {})
        turn(tmp_path)
        assert mine.answer().why.endswith("others were first in line"), "an older worker's ticket still keeps its place"


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, Network]]:
    """A control host whose own hosts fit no run, with two more behind a network that can be rented."""
    if why := why_not():
        pytest.skip(why)
    network = Network(tmp_path / "network", 2)
    for name, value in network.environment.items():
        monkeypatch.setenv(name, value)
    # What the user's own ssh knows must not help.
    nothing = tmp_path / "nothing"
    nothing.touch()
    environment = network.environment | {"AQUARAT_SSH_CONFIG": str(nothing)}
    monkeypatch.setenv("AQUARAT_SSH_CONFIG", str(nothing))
    cluster = Cluster(tmp_path / "cluster", store=network.store_uri, env=environment)
    monkeypatch.setenv("AQUARAT_STORE", cluster.store_uri)
    folder = rentals.folder_of(cluster.home)
    folder.mkdir(parents=True)
    shutil.copy(network.keys.client, folder / "id_ed25519")
    try:
        yield cluster.ready(), network
    finally:
        cluster.close()
        network.close()


def rent(cluster: Cluster, network: Network, k: int, **fields: object) -> RentedHost:
    """Host `k` of the network is ready from now on."""
    folder = rentals.folder_of(cluster.home, f"rental{k}")
    folder.mkdir()
    key = network.keys.host.with_suffix(".pub").read_text()
    (folder / "known_hosts").write_text(f"rental{k} {key}")
    own = {"user": getpass.getuser(), "expires": time.time() + 7200, "labels": ["h100"], "folder": folder}
    host = RentedHost.model_validate(network.host(k) | own | fields)
    rentals.write(host)
    return host


@pytest.mark.slow
def test_a_run_goes_on_at_the_next_rental_when_one_ends(far: tuple[Cluster, Network]) -> None:
    cluster, network = far
    first = rent(cluster, network, 0, price_per_hour=36)
    cluster.order(ASSET, steps=STEPS, seconds=0.2, hold=2)
    run_id = cluster.launch(ASSET, tags={"aquarat/pool": "h100"})
    cluster.wait_for_step(run_id, ASSET, 2)
    wait_until(lambda: waiting_steps(cluster.home) == [], 10, "a step that runs does not wait")

    agent = HostAgent(first)
    still = agent.drain("the rental ends")
    assert [lease["owner"] for lease in still["leases"]] == [run_id] and still["supervisors"] == 1
    assert not cluster.run(run_id).is_finished, "what runs there may go on"
    rentals.write(first.model_copy(update={"expires": time.time() + 60}))
    agent.drain("the rental ends", stop=True)
    wait_until(lambda: waiting_steps(cluster.home), 60, "the step waits for another host")
    (step,) = waiting_steps(cluster.home)
    assert (step.run_id, step.step, step.need.pool) == (run_id, ASSET, "h100")
    wait_until(lambda: agent.drain("the rental ends")["supervisors"] == 0, 30, "nothing runs there anymore")
    assert agent.drain("the rental ends")["leases"] == []
    rentals.remove(first)

    cluster.order(ASSET, steps=STEPS, seconds=0.2)
    second = rent(cluster, network, 1, price_per_hour=72)
    expect(cluster, run_id, trainers=2)
    assert {mark["host"] for mark in cluster.trace(run_id, ASSET)} == {"h0", "h1"}
    story = cluster.story(run_id)
    assert "h0: the rental ends. Starting again from the saved state (0/3)" in story
    assert "takes no job, because its rental ends at" in story
    assert [host.name for host in read_inventory(cluster.home).hosts] == ["one", second.name]

    # Both attempts are paid for, the lost one too, second by second.
    tags = cluster.run(run_id).tags
    lost, last = uses(tags, ASSET)
    assert [one.host for use in (lost, last) for one in use.hosts] == ["h0", "h1"] and lost.ended <= last.began
    assert tags[RENTAL_TAG] == "rental0,rental1"
    paid = sum(bill(Money.dollars(each), use.ended - use.began, 1).micros for each, use in ((36, lost), (72, last)))
    assert tags[COST_TAG] == f"{paid / 1e6:.6f}"
    made = cluster.instance.get_latest_materialization_event(dg.AssetKey(ASSET)).asset_materialization
    found = {name: made.metadata[name].value for name in ("host", "gpu_hours", "cost_usd", "cost_overhead_usd")}
    assert found == {"host": "h0, h1", "gpu_hours": 0.0, "cost_usd": paid / 1e6, "cost_overhead_usd": 0.0}
    assert "in 2 attempts on h0, h1" in made.metadata["cost"].value


@pytest.mark.slow
def test_a_run_on_a_varying_number_goes_on_with_the_rentals_that_are_left(far: tuple[Cluster, Network]) -> None:
    cluster, network = far
    first, second = (rent(cluster, network, k, network_address=network.address(k), price_per_hour=36) for k in (0, 1))
    cluster.order(ASSET, steps=STEPS, seconds=0.2, gloo=True, hold=STEPS - 1)
    run_id = cluster.launch(ASSET, tags={"aquarat/pool": "h100", "aquarat/nodes": "1:2"})
    cluster.wait_for_step(run_id, ASSET, 2)
    assert cluster.run(run_id).tags[LEASE_TAG] == "h0,h1"

    rentals.write(second.model_copy(update={"expires": time.time() + 60}))
    HostAgent(second).drain("the rental ends", stop=True)
    wait_until(lambda: cluster.run(run_id).tags[LEASE_TAG] == "h0", 60, "it goes on with the one that is left")
    assert waiting_steps(cluster.home) == []
    rentals.remove(second)
    expect(cluster, run_id, trainers=2)
    story, tags = cluster.story(run_id), cluster.run(run_id).tags
    assert "the rental ends. Starting again from the saved state (0/3)" in story, "an end that was agreed is no failure"
    assert [[one.host for one in use.hosts] for use in uses(tags, ASSET)] == [["h0", "h1"], ["h0"]]
    assert tags[RENTAL_TAG] == "rental0,rental1"
    assert [host.name for host in read_inventory(cluster.home).hosts] == ["one", first.name]


@pytest.mark.slow
def test_a_run_goes_on_elsewhere_when_the_control_host_does_not_renew_the_switch(far: tuple[Cluster, Network]) -> None:
    cluster, network = far
    network.set_clock(0, 3600)
    first = rent(cluster, network, 0)
    agent = HostAgent(first)
    assert agent.arm({"end_in": 3600, "orphan_after": 3600, "power_off": False}) == {"state": "armed", "started": True}
    cluster.order(ASSET, steps=STEPS, seconds=0.2, hold=2)
    run_id = cluster.launch(ASSET, tags={"aquarat/pool": "h100"})
    cluster.wait_for_step(run_id, ASSET, 2)
    agent.arm({"end_in": 3600, "orphan_after": 2, "power_off": False})
    wait_until(lambda: waiting_steps(cluster.home), 60, "the step waits for another host")
    rentals.remove(first)

    cluster.order(ASSET, steps=STEPS, seconds=0.2)
    rent(cluster, network, 1)
    expect(cluster, run_id, trainers=2)
    assert {mark["host"] for mark in cluster.trace(run_id, ASSET)} == {"h0", "h1"}
    story = cluster.story(run_id)
    assert "h0: its control host was silent for 2 s. Starting again from the saved state (1/3)" in story, story


@pytest.mark.slow
def test_acceptance_compares_a_rented_host_with_its_offer(far: tuple[Cluster, Network]) -> None:
    cluster, network = far
    host = rent(cluster, network, 0, gpus=8, gpu_kind="H100", gpu_memory_gb=80)
    found = examine(host, prepared=False, min_mb_s=0.1)
    assert found["problems"] == ["the inventory promises 8 GPUs, the driver shows 0"]
    assert float(str(found["facts"]["download_mb_s"])) > 0.1
    network.slow(0, "8mbit")
    found = examine(host.model_copy(update={"gpus": 0}), prepared=False, min_mb_s=100)
    assert [problem.split(" MB/s from the store, and ")[1] for problem in found["problems"]] == ["100 MB/s are needed"]
    probes = list((network.directory / "bucket").rglob("probe"))
    assert probes == [], "what was read is removed"


@pytest.mark.slow
def test_the_keeper_drains_a_host_and_its_run_goes_on_elsewhere(far: tuple[Cluster, Network]) -> None:
    """It waits for the job, lets none begin, stops it a minute before the end, and then ends the rental."""
    cluster, network = far
    world = World(cluster.home, seconds=time.time())
    world.config = RentConfig.model_validate(
        {"accounts": {"lambda": {"cloud": "lambda"}},
         "pools": {"h100": {"from": [{"account": "lambda"}], "max_price_per_hour": 2, "hours": 2}}}
    )  # fmt: skip
    own = network.host(0)
    fields = {name: own[name] for name in own.keys() - {"name", "address"}} | {"gpus": 0}
    world.hosts = ManagedHosts(
        cluster.home, world.now, lambda _: world.cloud, lambda: world.config, power_off=False, fields=fields
    )
    world.keeper = world.started()
    rental = world.order(hours=2, managed=True, pool="h100")
    instance = world.cloud.add(rental.name)
    world.cloud.boot = 0
    world.cloud.endpoint = Endpoint(network.address(0), 22, getpass.getuser(), None)
    key = network.keys.host.with_suffix(".pub").read_text()
    host_keys.pin(world.ledger.folder(rental.id), rental.id, [key])
    address = f"{getpass.getuser()}@{network.address(0)}:22"
    for state, facts in (
        ("asking", {}), ("granted", {"instance_id": instance.id}), ("booting", {"address": address}),
        ("reachable", {}), ("fit", {}), ("ready", {}),
    ):  # fmt: skip
        rental = world.ledger.append(rental, state, world.now(), **facts)  # type: ignore[arg-type]

    def turns(until: Callable[[], object], what: str) -> None:
        def turn() -> object:
            world.turn(0.5)
            return until()

        wait_until(turn, 60, what)

    turns(lambda: len(read_inventory(cluster.home).hosts) == 2, "the host is in the inventory")
    cluster.order(ASSET, steps=STEPS, seconds=0.2, hold=2)
    run_id = cluster.launch(ASSET, tags={"aquarat/pool": "h100"})
    cluster.wait_for_step(run_id, ASSET, 2)
    turns(lambda: run_id in world.only().runs, "the ledger knows who uses it")
    network.servers[0].stop()
    for _ in range(18):
        world.turn(60)
        time.sleep(2)  # within 15 of these, on a busy machine too, a look must find a newer heartbeat
    assert world.only().state == "ready", "the job's heartbeats are in the store"
    network.servers[0].start()
    world.ledger.append(world.only(), "ready", world.now(), "please", end_asked="drain")
    for _ in range(5):
        world.turn(5)
        time.sleep(0.2)
    assert world.only().state == "draining" and not cluster.run(run_id).is_finished
    world.seconds = world.only().end - 60
    turns(lambda: waiting_steps(cluster.home), "the step waits for another host")
    turns(lambda: world.only().state == "ending", "its host is to end")
    assert [host.name for host in read_inventory(cluster.home).hosts] == ["one"]
    world.run(world.settled)
    world.check()

    cluster.order(ASSET, steps=STEPS, seconds=0.2)
    rent(cluster, network, 1)
    expect(cluster, run_id, trainers=2)
    story = cluster.story(run_id)
    assert f"h100-{rental.id}: its rental ends. Starting again from the saved state (0/3)" in story, story
