"""A Ray cluster of two hosts, in network namespaces, that share a bucket with the host of the stage."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.settings import REPO_ROOT
from tests.launching.network import Network, answers, why_not
from tests.patience import limit, wait_until
from tests.sharding.toys import calls

pytestmark = pytest.mark.slow
PORT, CLIENT_PORT = 6379, 10001
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000", "RAY_health_check_failure_threshold": "3",
}  # fmt: skip
"""Ray otherwise waits half a minute until it takes a silent host for dead."""


class Hosts:
    """A head (0) and a worker (1), each with one CPU."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder, self.network = folder, network
        access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        access["RAY_CLIENT_RECONNECT_GRACE_PERIOD"] = "5"  # seconds, instead of 30
        self.environment = os.environ | network.environment | access | {"PYTHONPATH": str(REPO_ROOT)}
        head = f"{network.address(0)}:{PORT}"
        self._start(
            0, "--head", "--include-dashboard=false", f"--port={PORT}", f"--ray-client-server-port={CLIENT_PORT}"
        )
        wait_until(lambda: self._is_up(0) and answers(network.address(0), PORT), 90, "Ray's head answers")
        self._start(1, f"--address={head}")
        wait_until(lambda: answers(network.address(0), CLIENT_PORT), 90, "Ray's head takes clients")
        wait_until(lambda: self._is_up(1), 90, "the second host is in the cluster")
        self.addresses = {"in the cluster": head, "from outside": f"ray://{network.address(0)}:{CLIENT_PORT}"}

    def _start(self, k: int, *options: str) -> None:
        place = self.folder / str(k)
        place.mkdir()
        address = self.network.address(k)
        command = [
            "ip", "netns", "exec", f"aq{self.network._tag}{k}", sys.executable, "-m", "ray.scripts.scripts", "start",
            "--block", "--num-cpus=1", f"--node-ip-address={address}", f"--temp-dir={place}",
            "--object-store-memory=100000000", *options,
        ]  # fmt: skip
        own = {"PYTHONUNBUFFERED": "1", "TOY_HOST": str(k), "AQUARAT_CACHE": str(place / "cache"), **QUICK}
        with (place / "log").open("wb") as log:
            subprocess.Popen(
                command, env=self.environment | own, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _is_up(self, k: int) -> bool:
        said = (self.folder / str(k) / "log").read_text()
        assert "PANIC" not in said and "Error" not in said, said
        return "Ray runtime started" in said

    def driver(self, way: str, log: Path, shards: int, pause: float) -> subprocess.Popen[str]:
        """A stage's driver, on the head or on a host that is not in the cluster."""
        command = [
            sys.executable, "-m", "tests.sharding.driver", self.network.store_uri, str(log), str(shards), str(pause),
            "on_host",
        ]  # fmt: skip
        if way == "in the cluster":
            command = ["ip", "netns", "exec", f"aq{self.network._tag}0", *command]
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
    # A short path, for Ray's sockets.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    try:
        for name, value in network.environment.items():
            monkeypatch.setenv(name, value)
        yield Hosts(folder, network)
    finally:
        network.close()
        shutil.rmtree(folder, ignore_errors=True)


def made_on(store_uri: str) -> list[int]:
    """The host that made each shard of the store."""
    backend = ArtifactStore.open(store_uri).backend
    records = [json.loads(backend.read(key).data) for key in backend.keys("shards/toy/")]
    return [record["counts"]["host"] for record in records]


def ended(driver: subprocess.Popen[str]) -> tuple[int, Sequence[str], str]:
    out, err = driver.communicate(timeout=limit(180))
    return driver.returncode, out.splitlines(), err


def test_both_hosts_make_shards_and_one_that_dies_costs_only_what_it_was_making(hosts: Hosts, log: Path) -> None:
    code, _, err = ended(hosts.driver("in the cluster", log, 6, 0.5))
    assert code == 0, err
    assert calls(log) == list(range(6)) and set(made_on(hosts.network.store_uri)) == {0, 1}
    # The same shards and more: those that are there are not made again, whoever asks for them from where.
    driver = hosts.driver("from outside", log, 14, 2)
    wait_until(lambda: len(calls(log)) >= 9, 120, "shards of the second stage are being made")
    hosts.network.kill(1)
    code, said, err = ended(driver)
    assert code == 0, err
    assert said[0] == "6/14" and re.fullmatch(r"[0-9a-f]{64}", said[-1])
    assert len(made_on(hosts.network.store_uri)) == 14
    again = len(calls(log)) - 14
    assert sorted(set(calls(log))) == list(range(14)) and again == 1, f"{again} were made twice"


def test_a_cluster_that_dies_ends_the_stage_with_what_to_do(hosts: Hosts, log: Path) -> None:
    driver = hosts.driver("from outside", log, 8, 1)
    wait_until(lambda: len(made_on(hosts.network.store_uri)) >= 2, 120, "two shards are done")
    hosts.network.kill(0)
    code, _, err = ended(driver)
    assert code == 1 and "nobody answers at AQUARAT_RAY_ADDRESS" in err.splitlines()[-1], err
    assert "Shards that are done stay in the store" in err and len(made_on(hosts.network.store_uri)) >= 2
