"""Many runs: places on hosts are used, kept in order and given back, whatever becomes of the runs that had them."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from aquarat_core.agent import processes
from aquarat_pipeline.hosts.inventory import Host, read_inventory
from aquarat_pipeline.hosts.transports import transport_to
from aquarat_pipeline.runs import submit
from aquarat_pipeline.tags import JOB_TAG
from aquarat_pipeline.workers import worker_of
from tests.launching.cluster_fixture import Cluster
from tests.launching.kill_scenarios import ASSET
from tests.patience import wait_until

ENDLESS = 10_000
HOSTS = 10


def ten_runs(cluster: Cluster) -> dict[str, Any]:
    """Ten runs over three hosts of two sizes: every host is used, the runs of a pool train in the order they came."""
    before = read_inventory(cluster.home)
    big = [cluster.local_host(name, labels=["big"], price_per_hour=2) for name in ("big1", "big2")]
    cluster.write_hosts([*big, cluster.local_host("small", labels=["small"])])
    cluster.order(ASSET, steps=2, seconds=0.2)
    pools = ["big", "big", "small", "big", "big", "small", "big", "big", "small", "big"]
    began = time.monotonic()
    runs = [(pool, cluster.launch(ASSET, tags={"aquarat/pool": pool})) for pool in pools]
    for _, run_id in runs:
        assert cluster.wait(run_id, 400) == "SUCCESS", cluster.story(run_id)
    seconds = time.monotonic() - began
    used = {cluster.run(run_id).tags["aquarat/lease"] for _, run_id in runs}
    assert used == {"big1", "big2", "small"}
    first = {run_id: cluster.trace(run_id, ASSET)[0]["time"] for _, run_id in runs}
    small = [first[run_id] for pool, run_id in runs if pool == "small"]
    assert small == sorted(small)
    assert cluster.leases() == []
    cluster.write_hosts([host.model_dump(mode="json") for host in before.hosts])
    return {"outcome": "ten runs, every host used, in order", "seconds": round(seconds, 1), "redone": 0}


def hundred_launches(cluster: Cluster, rounds: int = 100) -> dict[str, Any]:
    """Runs are launched, killed at one of five moments and cancelled: no place, process or connection stays."""
    began = time.monotonic()
    before = read_inventory(cluster.home)
    at_once = len(_KILLS)
    cluster.write_hosts([cluster.local_host(f"many{number}") for number in range(at_once - 1)])
    cluster.order(ASSET, steps=ENDLESS, seconds=0.5)
    launched: set[str] = set()
    while len(launched) < rounds:
        wave = [cluster.launch(ASSET) for _ in range(min(at_once, rounds - len(launched)))]
        launched.update(wave)
        for run_id, kill in zip(wave, _KILLS, strict=False):
            kill(cluster, run_id)
        for run_id in wave:
            # Killed or not, resumed meanwhile or not: cancelled means over.
            submit.cancel(cluster.instance, cluster.run(run_id))
            assert cluster.run(run_id).status.value == "CANCELED", cluster.story(run_id)
    wait_until(lambda: cluster.leases() == [], 20, "the last lease is given back")
    wait_until(lambda: _strangers(cluster) == [], 30, "daemon and code servers alone are left")
    # A dead worker's ticket is worth nothing, and goes when the next in line looks.
    tickets = [json.loads(path.read_text()) for path in (cluster.home / "aquarat/queue").glob("*.json")]
    assert not [ticket for ticket in tickets if processes.is_alive(ticket["process"])]
    assert not launched & {record.run_id for record in cluster.materializations(ASSET)}
    cluster.write_hosts([host.model_dump(mode="json") for host in before.hosts])
    return {"outcome": f"{rounds} rounds, nothing left", "seconds": round(time.monotonic() - began, 1), "redone": 0}


def _strangers(cluster: Cluster) -> list[str]:
    """Command lines of the cluster's processes without the daemon and its code servers, replaced once a minute."""
    lines = []
    for pid in cluster.started():
        with suppress(FileNotFoundError, ProcessLookupError):
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [
        line for line in lines if line and "-m dagster._daemon run" not in line and "-m dagster api grpc" not in line
    ]


def _kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _nobody(cluster: Cluster, run_id: str) -> None:
    """It is cancelled in the queue, or wherever it has come to."""


def _new_worker(cluster: Cluster, run_id: str) -> None:
    wait_until(lambda: worker_of(cluster.run(run_id).tags), 60, "a worker is started")
    _kill(cluster.worker(run_id))


def _worker_that_asks(cluster: Cluster, run_id: str) -> None:
    """It has a job's folder, and asks a host to start the job, or waits for one."""
    wait_until(lambda: JOB_TAG in cluster.run(run_id).tags, 60, "the job has a folder")
    _kill(cluster.worker(run_id))


def _starting_job(cluster: Cluster, run_id: str) -> None:
    held = wait_until(lambda: _holders(cluster, run_id), 60, "the job has a lease")
    _kill(cluster.worker(run_id), *held)


def _training_job(cluster: Cluster, run_id: str) -> None:
    cluster.wait_for_step(run_id, ASSET)
    _kill(cluster.worker(run_id), cluster.supervisor(run_id))


def _holders(cluster: Cluster, run_id: str) -> list[int]:
    """The supervisor and its watchdog, once they hold the run's lease; none if it waited for a host and was ended."""
    return [p["pid"] for lease in cluster.leases() if lease["owner"] == run_id for p in lease["processes"]]


_KILLS: tuple[Callable[[Cluster, str], None], ...] = (
    _training_job,
    _starting_job,
    _worker_that_asks,
    _new_worker,
    _nobody,
)


def hundred_kills(cluster: Cluster, rounds: int = 100) -> dict[str, Any]:
    """Jobs are started, each on a host of its own, and their supervisors killed: no lease and no process stays."""
    began = time.monotonic()
    hosts = [Host(**cluster.local_host(f"kills{number}")) for number in range(HOSTS)]
    for done in range(0, rounds, HOSTS):
        orders = [_trivial(cluster, host, done + k) for k, host in enumerate(hosts[: rounds - done])]
        for host, order in zip(hosts, orders, strict=False):
            # Where the last round's job was, its watchdog may still be looking for what is left of it.
            start = functools.partial(transport_to(host).call, "start", order)
            wait_until(lambda start=start: start()["state"] == "started", 20, "the lease is free again")
        for host, order in zip(hosts, orders, strict=False):
            who = Path(host.root, "jobs", order["id"], "supervisor.json")
            wait_until(who.exists, 10, "the supervisor is there")
            os.kill(json.loads(who.read_text())["pid"], signal.SIGKILL)
        for order in orders:
            mark = order["mark"]
            wait_until(lambda mark=mark: not processes.job_processes(mark), 10, "the job ends with its supervisor")
    for host in hosts:
        leases = functools.partial(transport_to(host).call, "leases", {})
        wait_until(lambda leases=leases: leases() == {"leases": []}, 10, "the last lease is given back")
    return {"outcome": f"{rounds} rounds, nothing left", "seconds": round(time.monotonic() - began, 1), "redone": 0}


def _trivial(cluster: Cluster, host: Host, number: int) -> dict[str, Any]:
    """An order to sleep."""
    uri = f"file://{cluster.directory}/kills/jobs/kills/step/{number + 1}"
    return {
        "id": f"kill{number:04d}", "job": uri, "mark": f"{uri}#node0", "node": 0, "owner": "kills", "step": "kill",
        "host": host.name, "gpus": 0, "host_gpus": 0, "max_leases": 1, "ttl": 5, "argv": ["sleep", "600"],
        "env": {}, "inherit": True, "cwd": None, "ranks": False, "token": None, "heartbeat": 1, "grace": 1,
        "min_free_bytes": 0,
    }  # fmt: skip


CASES = (ten_runs, hundred_launches, hundred_kills)
