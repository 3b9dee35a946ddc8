"""A Ray cluster of two hosts, in network namespaces, that share a bucket with the host of the stage."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.settings import REPO_ROOT
from aquarat_core.sharding.ray_cluster import RayCluster
from aquarat_core.sharding.records import ShardStore
from tests.launching.network import Network, answers, why_not
from tests.patience import limit, wait_until
from tests.sharding.conftest import new_access
from tests.sharding.toys import calls

pytestmark = pytest.mark.slow
PORT, CLIENT_PORT = 6379, 10001
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000", "RAY_health_check_failure_threshold": "4",
}  # fmt: skip
"""Ray otherwise waits about a minute until it takes a silent host for dead."""


class Hosts:
    """A head (0), and a host (1) that can join it, each with one CPU."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder, self.network = folder, network
        self.environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT)}
        head = f"{network.address(0)}:{PORT}"
        self.addresses = {"in the cluster": head, "from outside": f"ray://{network.address(0)}:{CLIENT_PORT}"}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._start(
            0, "--head", "--include-dashboard=false", f"--port={PORT}", f"--ray-client-server-port={CLIENT_PORT}"
        )
        wait_until(lambda: answers(self.network.address(0), CLIENT_PORT), 90, "Ray's head takes clients")

    def join(self) -> None:
        self._start(1, f"--address={self.addresses['in the cluster']}")

    def close(self) -> None:
        self.network.close()
        for process in self._started:
            process.wait()

    def _start(self, k: int, *options: str) -> None:
        """Starts Ray on a host; again if it ends, because its own processes have 30 s, too few for a busy machine."""
        for tries in range(3):
            place = self.folder / f"{k}-{tries}"
            process = self._begin(k, place, options)
            done = lambda: process.poll() is not None or "Ray runtime started" in _said(place)  # noqa: B023, E731
            wait_until(done, 120, "Ray has started")
            if process.poll() is None:
                return
            self.network.end_all(k)
        raise AssertionError(f"Ray did not start on host {k}: {_said(place)}")

    def _begin(self, k: int, place: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
        place.mkdir()
        command = [
            *self.network.inside(k), sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1",
            f"--node-ip-address={self.network.address(k)}", f"--temp-dir={place}",
            "--object-store-memory=100000000", *options,
        ]  # fmt: skip
        own = {"PYTHONUNBUFFERED": "1", "TOY_HOST": str(k), "AQUARAT_CACHE": str(place / "cache"), **QUICK}
        with (place / "log").open("wb") as log:
            started = subprocess.Popen(
                command, env=self.environment | own, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._started.append(started)
        return started

    def driver(self, way: str, log: Path, shards: int, pause: float) -> subprocess.Popen[str]:
        """A stage's driver, on the head or on a host that is not in the cluster."""
        command = [
            sys.executable, "-m", "tests.sharding.driver", self.network.store_uri, str(log), str(shards), str(pause),
            "on_host",
        ]  # fmt: skip
        if way == "in the cluster":
            command = [*self.network.inside(0), *command]
        env = self.environment | {"AQUARAT_RAY_ADDRESS": self.addresses[way]}
        return subprocess.Popen(
            command, cwd=REPO_ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    pytest.importorskip("ray", reason="Ray is not installed: ./run setup --ray")
    if reason := why_not():
        pytest.skip(reason)
    network = Network(tmp_path / "network", 2)
    quick = {"RAY_CLIENT_RECONNECT_GRACE_PERIOD": "5"}  # seconds, instead of 30
    for name, value in (network.environment | new_access() | quick).items():
        monkeypatch.setenv(name, value)
    # A short path, for Ray's sockets.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    made = Hosts(folder, network)
    try:
        made.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def _said(place: Path) -> str:
    return (place / "log").read_text(errors="replace")


def made_on(store_uri: str) -> list[int]:
    """The host that made each shard of the store."""
    backend = ArtifactStore.open(store_uri).backend
    records = [json.loads(backend.read(key).data) for key in backend.keys("shards/toy/")]
    return [record["counts"]["host"] for record in records]


def ended(driver: subprocess.Popen[str]) -> tuple[int, Sequence[str], str]:
    out, err = driver.communicate(timeout=limit(180))
    return driver.returncode, out.splitlines(), err


def test_hosts_that_join_and_die_while_shards_are_made(hosts: Hosts, log: Path) -> None:
    place = ShardStore(ArtifactStore.open(hosts.network.store_uri), "toy")
    cluster = RayCluster(place, hosts.addresses["from outside"], 4)
    assert cluster.slots == 1
    hosts.join()
    wait_until(lambda: cluster.wait(0.1) == [] and cluster.slots == 2, 60, "the stage uses the second host")
    cluster.close()

    code, _, err = ended(hosts.driver("in the cluster", log, 6, 0.5))
    assert code == 0, err
    assert calls(log) == list(range(6)) and set(made_on(hosts.network.store_uri)) == {0, 1}
    # The same shards and more, from another host: those that are there are not made again.
    driver = hosts.driver("from outside", log, 14, 2)
    wait_until(lambda: len(calls(log)) >= 9, 120, "shards of the second stage are being made")
    hosts.network.kill(1)
    code, said, err = ended(driver)
    assert code == 0, err
    assert said[0] == "6/14" and re.fullmatch(r"[0-9a-f]{64}", said[-1])
    assert len(made_on(hosts.network.store_uri)) == 14
    again = len(calls(log)) - 14
    # What that host was making, and perhaps one that was slow on a busy machine.
    assert sorted(set(calls(log))) == list(range(14)) and again <= 2, f"{again} were made twice"


def test_a_head_that_dies_ends_the_stage_with_what_to_do(hosts: Hosts, log: Path) -> None:
    driver = hosts.driver("from outside", log, 8, 1)
    wait_until(lambda: len(made_on(hosts.network.store_uri)) >= 2, 120, "two shards are done")
    hosts.network.kill(0)
    code, _, err = ended(driver)
    assert code == 1 and "nobody answers at AQUARAT_RAY_ADDRESS" in err.splitlines()[-1], err
    assert "Shards that are done stay in the store" in err and len(made_on(hosts.network.store_uri)) >= 2
