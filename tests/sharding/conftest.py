"""A store, the place of a stage's shards in it, a folder in which toy functions note their calls, and a Ray cluster."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.sharding.records import ShardStore
from tests.patience import limit, wait_until

CLUSTERS: set[int] = set()
"""The first process of each Ray cluster that tests share, which no test ends."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture
def place(store_uri: str) -> ShardStore:
    return ShardStore(ArtifactStore.open(store_uri), "toy")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster of one host."""

    address: str
    client_address: str
    environment: dict[str, str]
    """What a process needs to connect to it."""


def _answers(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A Ray cluster for all tests, which takes up to a minute to start; they are skipped without Ray."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: ./run setup --ray")
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        ports = first.getsockname()[1], second.getsockname()[1]
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    # Ray's sockets are in it, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}", "--num-cpus=4", "--include-dashboard=false",
            f"--object-store-memory={128 << 20}", f"--temp-dir={folder}",
        ]  # fmt: skip
        head = subprocess.Popen(command, env=os.environ | access, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        CLUSTERS.add(head.pid)
        try:
            wait_until(lambda: head.poll() is not None or all(map(_answers, ports)), 120, "the Ray cluster answers")
            assert head.poll() is None
            yield Cluster(f"127.0.0.1:{ports[0]}", f"ray://127.0.0.1:{ports[1]}", access)
        finally:
            processes = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
            head.terminate()
            head.wait(limit(60))
            for process in psutil.wait_procs(processes, 10)[1]:
                process.kill()


@pytest.fixture
def cluster(ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The Ray cluster, with its token in the environment."""
    for name, value in ray_cluster.environment.items():
        monkeypatch.setenv(name, value)
    return ray_cluster
