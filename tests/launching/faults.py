"""Faults and what must come of them: each case breaks something while a run trains, and returns what it cost.

A case takes a rig whose daemon runs. What it returns are facts for the table of `bench faults`; that the asset is
materialized once, by one trainer at a time, and that nothing is left, is asserted in each.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import dagster as dg

from aquarat_core.agent import processes
from aquarat_core.artifacts import ArtifactStore
from aquarat_pipeline.launching import commands, submit
from aquarat_pipeline.launching.attempts import Attempt
from aquarat_pipeline.launching.hosts import read_inventory
from aquarat_pipeline.launching.transports import transport_to
from aquarat_pipeline.launching.workers import worker_of
from tests.launching.network import Network
from tests.launching.rig import Rig, assert_nothing_left, assert_survived, wait_until

ASSET = "sft_checkpoint"
STEPS = 8
CANCELLED_WITHIN = 30.0


def training(rig: Rig, **orders: Any) -> str:
    """A run whose trainer has made its second step."""
    rig.order(ASSET, **{"steps": STEPS, "seconds": 0.5, **orders})
    run_id = rig.launch(ASSET)
    rig.wait_for_step(run_id, ASSET, 2)
    return run_id


def run_worker(rig: Rig) -> dict[str, Any]:
    run_id = training(rig)
    os.kill(rig.worker(run_id), signal.SIGKILL)
    return expect(rig, run_id, redone=0, trainers=1)


def run_worker_stopped(rig: Rig) -> dict[str, Any]:
    """A shutdown of the control host asks its processes to end: nobody cancelled the run."""
    run_id = training(rig)
    os.kill(rig.worker(run_id), signal.SIGTERM)
    return expect(rig, run_id, redone=0, trainers=1)


def daemon(rig: Rig) -> dict[str, Any]:
    """It stays away until the run has ended without it."""
    run_id = training(rig)
    rig.stop_daemon()
    facts = expect(rig, run_id, redone=0, trainers=1)
    rig.start_daemon()
    return facts


def code_server(rig: Rig) -> dict[str, Any]:
    run_id = training(rig)
    servers = [pid for pid in rig.started() if b"code-server" in _command(pid) or b"grpc" in _command(pid)]
    assert servers, "the daemon brought no code server along"
    for pid in servers:
        os.kill(pid, signal.SIGKILL)
    return expect(rig, run_id, redone=0, trainers=1)


def supervisor(rig: Rig) -> dict[str, Any]:
    run_id = training(rig)
    os.kill(rig.supervisor(run_id), signal.SIGKILL)
    return expect(rig, run_id, redone=0, trainers=2)


def rank(rig: Rig) -> dict[str, Any]:
    run_id = training(rig)
    os.kill(rig.trace(run_id, ASSET)[-1]["pid"], signal.SIGKILL)
    return expect(rig, run_id, redone=0, trainers=2)


def torchrun(rig: Rig) -> dict[str, Any]:
    run_id = training(rig)
    leader = next(pid for pid in rig.members(run_id) if b"torch.distributed.run" in _command(pid))
    os.kill(leader, signal.SIGKILL)
    return expect(rig, run_id, redone=0, trainers=2)


def worker_and_supervisor(rig: Rig) -> dict[str, Any]:
    run_id = training(rig)
    for pid in (rig.worker(run_id), rig.supervisor(run_id)):
        os.kill(pid, signal.SIGKILL)
    return expect(rig, run_id, redone=0, trainers=2)


def shell(rig: Rig) -> dict[str, Any]:
    """The terminal that ran `dagster asset materialize`; the daemon takes the run over."""
    rig.order(ASSET, steps=STEPS, seconds=0.5)
    before = {run.run_id for run in rig.instance.get_runs()}
    command = rig.shell(ASSET)
    new = wait_until(lambda: [r for r in rig.instance.get_runs() if r.run_id not in before], 60, "the run is there")
    run_id = new[0].run_id
    rig.wait_for_step(run_id, ASSET, 2)
    assert worker_of(rig.run(run_id).tags)["kind"] == "shell"
    command.kill()
    command.wait()
    return expect(rig, run_id, redone=0, trainers=1)


def second_start(rig: Rig) -> dict[str, Any]:
    """The same job is started again on its host, and the same run is resumed although its worker lives."""
    run_id = training(rig, seconds=2)
    attempt = Attempt.find(ArtifactStore.open(rig.store_uri), run_id, ASSET, 0)
    order = {**commands.identity(attempt, 0), "token": None}
    host = read_inventory(rig.home).hosts[0]
    assert transport_to(host).call("start", order) == {"state": "already-started"}
    elsewhere = host.model_copy(update={"root": str(rig.directory / "elsewhere")})
    full = {"owner": run_id, "step": ASSET, "host": "elsewhere", "gpus": 0, "host_gpus": 0}
    answer = transport_to(elsewhere).call("start", order | full | {"max_leases": 1, "ttl": 5, "min_free_bytes": 0})
    assert answer == {"state": "claimed"}
    assert transport_to(elsewhere).call("leases", {}) == {"leases": []}
    run = rig.run(run_id)
    first = worker_of(run.tags)
    rig.instance.run_launcher._start_worker(run, _resume_command(rig, run), "A second")
    second = worker_of(rig.run(run_id).tags)
    assert second != first
    wait_until(lambda: not processes.is_alive(second), 60, "the second worker leaves")
    assert processes.is_alive(first)
    assert worker_of(rig.run(run_id).tags) == first
    return expect(rig, run_id, redone=0, trainers=1)


def cancel_queued(rig: Rig) -> dict[str, Any]:
    rig.stop_daemon()
    rig.order(ASSET, steps=STEPS, seconds=0.5)
    run_id = rig.launch(ASSET)
    facts = cancelled(rig, run_id)
    rig.start_daemon()
    return facts


def cancel_waiting(rig: Rig) -> dict[str, Any]:
    """It waits for the only host, which another run has."""
    first = training(rig, steps=30)
    second = rig.launch(ASSET)
    wait_until(lambda: "Waiting for a host" in rig.story(second), 60, "the second run says what it waits for")
    facts = cancelled(rig, second, left=1)
    assert cancelled(rig, first)["seconds"] < CANCELLED_WITHIN
    return facts


def cancel_starting(rig: Rig) -> dict[str, Any]:
    """The worker's process exists and has not begun."""
    rig.order(ASSET, steps=STEPS, seconds=0.5)
    run_id = rig.launch(ASSET)
    wait_until(lambda: worker_of(rig.run(run_id).tags), 60, "a worker is started")
    return cancelled(rig, run_id)


def cancel_training(rig: Rig) -> dict[str, Any]:
    return cancelled(rig, training(rig, steps=60))


def cancel_without_worker(rig: Rig) -> dict[str, Any]:
    """The worker is dead when the run is cancelled; the job is told through the store."""
    run_id = training(rig, steps=60)
    rig.stop_daemon()
    os.kill(rig.worker(run_id), signal.SIGKILL)
    facts = cancelled(rig, run_id)
    rig.start_daemon()
    return facts


def cancel_publishing(rig: Rig) -> dict[str, Any]:
    """All steps are made, and the artifact is about to be published."""
    run_id = training(rig, steps=3, publishing=20)
    rig.wait_for_step(run_id, ASSET, 3)
    return cancelled(rig, run_id)


# --- on hosts of their own: two, behind a network that can be cut, with the store in a bucket ------------------------


def two_hosts(rig: Rig, network: Network) -> dict[str, Any]:
    """Nothing breaks: one torchrun over both hosts, which meet on the first and reduce over the network."""
    rig.order(ASSET, steps=STEPS, seconds=0.1, gloo=True)
    run_id = rig.launch(ASSET, tags={"aquarat/nodes": "2"})
    facts = expect(rig, run_id, redone=0, trainers=1)
    assert "gloo: 2 ranks" in rig.story(run_id)
    return facts


def connection_lost(rig: Rig, network: Network, seconds: float = 6.0) -> dict[str, Any]:
    """sshd and every connection to the host die, and come back after a while."""
    run_id = training(rig, steps=STEPS, seconds=1.0)
    network.servers[0].stop()
    time.sleep(seconds)
    network.servers[0].start()
    return expect(rig, run_id, redone=0, trainers=1)


def host_killed(rig: Rig, network: Network) -> dict[str, Any]:
    """It loses its power for good; the other goes on from the last step saved."""
    run_id = training(rig)
    assert rig.trace(run_id, ASSET)[-1]["host"] == "h0"
    network.kill(0)
    facts = expect(rig, run_id, redone=0, trainers=2)
    assert rig.trace(run_id, ASSET)[-1]["host"] == "h1"
    network.heal(0)
    network.servers[0].start()
    return facts


def network_away(rig: Rig, network: Network) -> dict[str, Any]:
    """The host runs on without its network: it must have stopped the job when the other starts it."""
    run_id = training(rig, steps=STEPS, seconds=1.0)
    first = set(rig.members(run_id))
    assert first
    network.cut(0)
    wait_until(lambda: rig.trace(run_id, ASSET)[-1]["host"] == "h1", 90, "the other host trains")
    assert not any(_command(pid) for pid in first), "two trainers at once"
    network.heal(0)
    facts = expect(rig, run_id, redone=0, trainers=2)
    wait_until(lambda: not rig.leases(), 20, "the host that came back holds no lease")
    return facts


def control_host(rig: Rig, network: Network) -> dict[str, Any]:
    """Every process of the control host dies at once; then its daemon is started again."""
    run_id = training(rig, steps=STEPS, seconds=1.0)
    rig.kill_everything()
    time.sleep(2)
    rig.start_daemon()
    return expect(rig, run_id, redone=0, trainers=1)


def slow_network(rig: Rig, network: Network) -> dict[str, Any]:
    """The host hears the control host and the bucket at modem speed."""
    network.slow(0, "256kbit")
    run_id = training(rig)
    facts = expect(rig, run_id, redone=0, trainers=1)
    network.slow(0, "10gbit")
    return facts


def full_disk(rig: Rig, network: Network) -> dict[str, Any]:
    """The first host's disk fills while the job writes; the second has room."""
    network.shrink_disk(0, "8m")
    try:
        rig.order(ASSET, steps=STEPS, seconds=0.2, fill=20_000_000)
        run_id = rig.launch(ASSET)
        facts = expect(rig, run_id, redone=0, trainers=1)
        assert {mark["host"] for mark in rig.trace(run_id, ASSET)} == {"h1"}
        return facts
    finally:
        network.shrink_disk(0, None)


def ten_runs(rig: Rig) -> dict[str, Any]:
    """Ten runs over three hosts of two sizes: every host is used, the runs of a pool train in the order they came."""
    before = read_inventory(rig.home)
    big = [rig.local_host(name, labels=["big"], price_per_hour=2) for name in ("big1", "big2")]
    rig.write_hosts([*big, rig.local_host("small", labels=["small"])])
    rig.order(ASSET, steps=2, seconds=0.2)
    pools = ["big", "big", "small", "big", "big", "small", "big", "big", "small", "big"]
    began = time.monotonic()
    runs = [(pool, rig.launch(ASSET, tags={"aquarat/pool": pool})) for pool in pools]
    for _, run_id in runs:
        assert rig.wait(run_id, 400) == "SUCCESS", rig.story(run_id)
    seconds = time.monotonic() - began
    used = {rig.run(run_id).tags["aquarat/lease"] for _, run_id in runs}
    assert used == {"big1", "big2", "small"}
    first = {run_id: rig.trace(run_id, ASSET)[0]["time"] for _, run_id in runs}
    small = [first[run_id] for pool, run_id in runs if pool == "small"]
    assert small == sorted(small)
    assert rig.leases() == []
    rig.write_hosts([host.model_dump(mode="json") for host in before.hosts])
    return {"outcome": "ten runs, every host used, in order", "seconds": round(seconds, 1), "redone": 0}


def hundred_kills(rig: Rig, rounds: int = 100) -> dict[str, Any]:
    """A trivial job is started and its supervisor killed, again and again: no lease and no process stays."""
    began = time.monotonic()
    host = read_inventory(rig.home).hosts[0]
    call = transport_to(host).call
    for number in range(rounds):
        uri = f"file://{rig.directory}/kills/jobs/kills/step/{number + 1}"
        order = {
            "id": f"kill{number:04d}", "job": uri, "mark": f"{uri}#node0", "node": 0, "owner": "kills", "step": "kill",
            "host": host.name, "gpus": 0, "host_gpus": 0, "max_leases": 1, "ttl": 5, "argv": ["sleep", "600"],
            "env": {}, "inherit": True, "cwd": None, "ranks": False, "token": None, "heartbeat": 1, "grace": 1,
            "min_free_bytes": 0,
        }  # fmt: skip
        wait_until(lambda order=order: call("start", order)["state"] == "started", 20, "the lease is free again")
        who = Path(host.root, "jobs", order["id"], "supervisor.json")
        wait_until(who.exists, 10, "the supervisor is there")
        os.kill(json.loads(who.read_text())["pid"], signal.SIGKILL)
        wait_until(lambda order=order: not processes.members(order["mark"]), 10, "the job ends with its supervisor")
    wait_until(lambda: rig.leases() == [], 10, "the last lease is given back")
    return {"outcome": f"{rounds} rounds, nothing left", "seconds": round(time.monotonic() - began, 1), "redone": 0}


# --- what must hold ---------------------------------------------------------------------------------------------------


def expect(rig: Rig, run_id: str, **facts: int) -> dict[str, Any]:
    """The run succeeds as `assert_survived` says, having cost exactly `facts`."""
    began = time.monotonic()
    found = assert_survived(rig, run_id, ASSET, STEPS)
    assert found["trainers"] == facts["trainers"]
    # A step is counted as made before it is saved: the one that was cut off may be made again.
    assert found["redone"] <= facts["redone"] + (facts["trainers"] - 1)
    return {"outcome": "materialized once", "seconds": round(time.monotonic() - began, 1), **found}


def cancelled(rig: Rig, run_id: str, left: int = 0) -> dict[str, Any]:
    """Cancels the run: it ends in time, its trainer with it, and nothing is materialized after that."""
    began = time.monotonic()
    status = submit.cancel(rig.instance, rig.run(run_id))
    assert status == dg.DagsterRunStatus.CANCELED, rig.story(run_id)
    wait_until(lambda: len(rig.leases()) == left, CANCELLED_WITHIN, "the lease is given back")
    seconds = time.monotonic() - began
    assert seconds < CANCELLED_WITHIN
    made = len(rig.trace(run_id, ASSET))
    time.sleep(1.5)
    assert len(rig.trace(run_id, ASSET)) == made
    assert not [r for r in rig.materializations(ASSET) if r.run_id == run_id]
    if not left:
        assert_nothing_left(rig, run_id)
    return {"outcome": "cancelled, nothing materialized", "seconds": round(seconds, 1), "redone": 0}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _resume_command(rig: Rig, run: dg.DagsterRun) -> list[str]:
    from aquarat_pipeline._compat import ResumeRunArgs

    return ResumeRunArgs(
        job_origin=run.job_code_origin, run_id=run.run_id, instance_ref=rig.instance.get_ref()
    ).get_command_args()


NETWORK = (
    two_hosts,
    connection_lost,
    control_host,
    network_away,
    host_killed,
    full_disk,
    slow_network,
)
"""Cases on two hosts of a `Network`."""

LOCAL = (
    run_worker,
    run_worker_stopped,
    daemon,
    code_server,
    supervisor,
    rank,
    torchrun,
    worker_and_supervisor,
    shell,
    second_start,
    cancel_queued,
    cancel_waiting,
    cancel_starting,
    cancel_training,
    cancel_without_worker,
    cancel_publishing,
    ten_runs,
    hundred_kills,
)
"""Cases on one host that is this machine."""
