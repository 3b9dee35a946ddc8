"""What a job listens to while it trains: on one host nothing but loopback, on several the address that was decided."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from aquarat_core.artifacts import JobDir
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.settings import REPO_ROOT
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.jobs import commands
from tests.launching.cluster_fixture import Cluster
from tests.launching.kill_scenarios import ASSET
from tests.launching.listeners import attack, children, listening
from tests.launching.network import Network, why_not
from tests.patience import wait_until
from tests.serving import free_port

pytestmark = pytest.mark.slow

REDUCES = [str(Path(__file__).with_name("reduces.py"))]


def arguments(host: Host, need: Requirement, program: list[str], scratch: Path) -> list[str]:
    """The command that the agent of `host` starts, for a job on it alone."""
    job = JobDir(open_backend(f"file://{scratch}"), "jobs/run/step/1")
    launch = SimpleNamespace(attempt=SimpleNamespace(folder=job), need=need, program=program)
    argv = commands._argv(launch, [host], 0)
    return [part.replace("{scratch}", str(scratch)) for part in argv]


@contextmanager
def training(tmp_path: Path, prefix: list[str]) -> Iterator[tuple[subprocess.Popen, Path]]:
    """Two ranks under torchrun as a host's agent starts it, in `folder`, where `enough` ends them."""
    folder = tmp_path / "job.d"
    folder.mkdir()
    argv = arguments(Host(name="local", transport="local"), Requirement(True, ranks=2), REDUCES, tmp_path)
    env = {k: v for k, v in os.environ.items() if not k.endswith("_SOCKET_IFNAME")}
    env |= {"PYTHONPATH": str(REPO_ROOT), "AQUARAT_SCRATCH": str(tmp_path / "scratch"), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*prefix, *argv[:-1], str(folder)], env=env, stdout=log, stderr=log)
    try:
        wait_until(lambda: (folder / "running").exists() or process.poll() is not None, 120, "the ranks run")
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield process, folder
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    if why := why_not():
        pytest.skip(why)
    made = Network(tmp_path_factory.mktemp("network"), 2)
    yield made
    made.close()


def rendezvous_below(scratch: Path) -> list[Path]:
    """The folders or files in which ranks meet, while the job makes and removes others beside them."""
    found = [Path(folder, name) for folder, folders, files in os.walk(scratch) for name in (*folders, *files)]
    return [path for path in found if path.name.startswith("ranks-")]


def test_a_job_on_one_host_listens_on_loopback_and_serves_no_store(tmp_path: Path) -> None:
    with training(tmp_path, []) as (process, folder):
        pids = children(process.pid)
        assert len(pids) >= 3, "torchrun and two ranks"
        found = listening(pids)
        assert {address for address, _ in found} <= {"127.0.0.1", "::1"}, found
        assert listening(children(process.pid)[:1]) == set(), "torchrun itself needs no port"
        (rendezvous,) = rendezvous_below(tmp_path / "scratch")
        assert rendezvous.stat().st_mode & 0o077 == 0, "no other user finds the ranks' store"
        assert not any(attack(*place, tmp_path / "PWNED") for place in sorted(found)[:2])
        assert not (tmp_path / "PWNED").exists()
        (folder / "enough").touch()
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert rendezvous_below(tmp_path / "scratch") == []


def test_a_job_on_one_host_is_out_of_reach_for_another_machine(tmp_path: Path, network: Network) -> None:
    there = network.inside(0)
    with training(tmp_path, there) as (process, folder):
        for _, port in sorted(listening(children(process.pid)))[:2]:
            assert not attack(network.address(0), port, tmp_path / "PWNED")
        assert not (tmp_path / "PWNED").exists()
        (folder / "enough").touch()
        assert process.wait(60) == 0, (tmp_path / "log").read_text()


def test_a_job_on_two_hosts_listens_on_their_network_alone_and_unpickles_nothing(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in network.environment.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    hosts = [network.host(k, rendezvous_port=port, network_interface=None) for k in (0, 1)]
    cluster = Cluster(tmp_path / "cluster", hosts=hosts, store=network.store_uri, env=network.environment)
    try:
        cluster.ready()
        cluster.order(ASSET, steps=400, seconds=0.1, gloo=True)
        run_id = cluster.launch(ASSET, tags={"aquarat/nodes": "2"})
        cluster.wait_for_step(run_id, ASSET)
        seen = {k: listening(set(cluster.members(run_id)) & set(network.pids(k))) for k in (0, 1)}
        for k, found in seen.items():
            assert {address for address, _ in found} <= {network.address(k), "127.0.0.1"}, found
        assert (network.address(0), port) in seen[0], "the hosts meet where the control host decided"
        step = cluster.state(run_id, ASSET)
        assert attack(network.address(0), port, tmp_path / "PWNED"), "the network is private, not the port"
        cluster.wait_for_step(run_id, ASSET, step + 5)
        assert not (tmp_path / "PWNED").exists()
        for k in (0, 1):
            for _, other in sorted(seen[k] - {(network.address(0), port)})[:1]:
                assert not attack(network.address(k), other, tmp_path / "PWNED")
        assert not (tmp_path / "PWNED").exists()
    finally:
        cluster.kill_everything()
        cluster.close()
