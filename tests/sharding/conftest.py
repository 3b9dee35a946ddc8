"""A store, the place of a stage's shards in it, a folder in which toy functions note their calls, and a Ray cluster."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.sharding.records import ShardStore

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
    environment: dict[str, str]
    """What a process needs to connect to it."""


def new_access() -> dict[str, str]:
    """The environment of a new cluster's processes, and of those that may connect to it."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A Ray cluster for all tests, which takes up to a minute to start; they are skipped without Ray."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: ./run setup --ray")
    access = new_access()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "tests.sharding.cluster", folder]
        head = subprocess.Popen(command, env=os.environ | access, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        CLUSTERS.add(head.pid)
        try:
            address = head.stdout.readline().decode().strip()
            assert address, "the Ray cluster was not started"
            yield Cluster(address, access)
        finally:
            head.communicate()


@pytest.fixture
def cluster(ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The Ray cluster, with its token in the environment."""
    for name, value in ray_cluster.environment.items():
        monkeypatch.setenv(name, value)
    return ray_cluster


@pytest.fixture(params=["processes", pytest.param("ray", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where drivers in processes of their own make shards."""
    if request.param == "ray":
        monkeypatch.setenv("AQUARAT_RAY_ADDRESS", request.getfixturevalue("cluster").address)
    return request.param
