"""Faults of hosts and the way to them: cases on two hosts of a `Network`, with the store in a bucket they all reach."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import Any

from aquarat_core.artifacts import ArtifactStore
from aquarat_pipeline.hosts.doctor import examine
from aquarat_pipeline.hosts.inventory import read_inventory
from aquarat_pipeline.tags import LEASE_TAG
from tests.launching.cluster_fixture import Cluster
from tests.launching.kill_scenarios import ASSET, STEPS, cancelled, command_of, expect, training
from tests.launching.network import Network
from tests.patience import wait_until

MEBIBYTE = 1 << 20


def two_hosts(cluster: Cluster, network: Network) -> dict[str, Any]:
    """Nothing breaks: one torchrun over both hosts, which meet on the first and reduce over the network."""
    cluster.order(ASSET, steps=STEPS, seconds=0.1, gloo=True)
    run_id = cluster.launch(ASSET, tags={"aquarat/nodes": "2"})
    facts = expect(cluster, run_id, trainers=1)
    assert "gloo: 2 ranks" in cluster.story(run_id)
    return facts


def fewer_and_more_hosts(cluster: Cluster, network: Network) -> dict[str, Any]:
    """With `--nodes 1:2`, one of two hosts is killed for good: the job goes on on one. When there are two again, the
    next attempt takes both."""

    def leased(hosts: str) -> bool:
        return cluster.run(run_id).tags.get(LEASE_TAG) == hosts

    cluster.order(ASSET, steps=STEPS, seconds=0.3, gloo=True, hold=STEPS - 1)
    run_id = cluster.launch(ASSET, tags={"aquarat/nodes": "1:2"})
    cluster.wait_for_step(run_id, ASSET, 2)
    assert leased("h0,h1") and "gloo: 2 ranks" in cluster.story(run_id)
    network.kill(1)
    try:
        # It holds the last step but one until it is released.
        wait_until(lambda: leased("h0"), 120, "it is started on the host that is left")
        cluster.wait_for_step(run_id, ASSET, STEPS - 1)
    finally:
        network.heal(1)
        network.servers[1].start()
    assert cluster.trace(run_id, ASSET)[-1]["attempt"] == 2 and "gloo: 1 ranks" in cluster.story(run_id)
    os.kill(cluster.trace(run_id, ASSET)[-1]["pid"], signal.SIGKILL)
    wait_until(lambda: leased("h0,h1"), 90, "it is started on both")
    return expect(cluster, run_id, trainers=3)


def connection_lost(cluster: Cluster, network: Network, seconds: float = 60.0) -> dict[str, Any]:
    """sshd and every connection to the host die, and come back after a while, in which the run trains on."""
    run_id = training(cluster, seconds=(seconds + 4) / (STEPS - 2))
    network.servers[0].stop()
    try:
        time.sleep(seconds)
        assert not cluster.run(run_id).is_finished
    finally:
        network.servers[0].start()
    return expect(cluster, run_id, trainers=1)


def host_killed(cluster: Cluster, network: Network) -> dict[str, Any]:
    """It loses its power for good; the other goes on from the last step saved."""
    run_id = training(cluster)
    assert cluster.trace(run_id, ASSET)[-1]["host"] == "h0"
    network.kill(0)
    facts = expect(cluster, run_id, trainers=2)
    assert cluster.trace(run_id, ASSET)[-1]["host"] == "h1"
    network.heal(0)
    network.servers[0].start()
    return facts


def network_away(cluster: Cluster, network: Network) -> dict[str, Any]:
    """The host runs on without its network: it must have stopped the job when the other starts it."""
    run_id = training(cluster)
    first = set(cluster.members(run_id))
    assert first
    network.cut(0)
    wait_until(lambda: cluster.trace(run_id, ASSET)[-1]["host"] == "h1", 90, "the other host trains")
    assert not any(command_of(pid) for pid in first), "two trainers at once"
    network.heal(0)
    facts = expect(cluster, run_id, trainers=2)
    wait_until(lambda: not cluster.leases(), 20, "the host that came back holds no lease")
    return facts


def control_host(cluster: Cluster, network: Network) -> dict[str, Any]:
    """Every process of the control host dies at once; then its daemon is started again."""
    run_id = training(cluster)
    cluster.kill_everything()
    time.sleep(2)
    cluster.start_daemon()
    return expect(cluster, run_id, trainers=1)


def slow_network(cluster: Cluster, network: Network) -> dict[str, Any]:
    """The host hears the control host and the bucket at modem speed."""
    network.slow(0, "256kbit")
    run_id = training(cluster)
    facts = expect(cluster, run_id, trainers=1)
    network.slow(0, None)
    return facts


def full_disk(cluster: Cluster, network: Network) -> dict[str, Any]:
    """The first host's disk fills while the job writes; the second has room."""
    network.shrink_disk(0, "8m")
    try:
        cluster.order(ASSET, steps=STEPS, seconds=0.2, fill=20_000_000)
        run_id = cluster.launch(ASSET)
        facts = expect(cluster, run_id, trainers=1)
        assert {mark["host"] for mark in cluster.trace(run_id, ASSET)} == {"h1"}
        return facts
    finally:
        network.shrink_disk(0, None)


def wrong_clock(cluster: Cluster, network: Network, off: int = 3600) -> dict[str, Any]:
    """The host's date is an hour ahead, for agent, supervisor and trainer, and the run's worker is replaced as well."""
    before = read_inventory(cluster.home)
    network.set_clock(0, off)
    cluster.write_hosts([network.host(0)])
    try:
        said = examine(read_inventory(cluster.home).hosts[0])["problems"]
        assert any(re.match(r"its clock is 360\d s ahead", problem) for problem in said), said
        run_id = training(cluster)
        assert cluster.trace(run_id, ASSET)[-1]["time"] - time.time() > off - 60, "the trainer's clock was right"
        os.kill(cluster.worker(run_id), signal.SIGKILL)
        return expect(cluster, run_id, trainers=1)
    finally:
        network.set_clock(0, 0)
        cluster.write_hosts([host.model_dump(mode="json") for host in before.hosts])


def cancel_uploading(cluster: Cluster, network: Network) -> dict[str, Any]:
    """The artifact is on its way to the bucket, over a link that would take another minute."""
    network.slow(0, "4mbit", way="up")
    try:
        run_id = training(cluster, steps=3, content=32 * MEBIBYTE)
        store = ArtifactStore.open(cluster.store_uri)
        before = store.latest(ASSET)
        cluster.release(ASSET)
        cluster.wait_for_step(run_id, ASSET, 3)
        sent = network.sent(0)
        wait_until(lambda: network.sent(0) > sent + MEBIBYTE, 30, "the upload has begun")
        facts = cancelled(cluster, run_id)
        assert store.latest(ASSET) == before
        return facts
    finally:
        network.slow(0, None, way="up")


CASES = (
    two_hosts,
    fewer_and_more_hosts,
    connection_lost,
    control_host,
    network_away,
    host_killed,
    full_disk,
    slow_network,
    wrong_clock,
    cancel_uploading,
)
