"""While a job trains, it listens where the docs say and nowhere else, and what strangers send there is not executed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aquarat_core.training import torchrun
from tests.launching.listening import attack, listening
from tests.launching.network import Network, why_not
from tests.launching.rig import Rig, assert_survived
from tests.launching.survival import ASSET, STEPS
from tests.patience import wait_until
from tests.serving import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    if why := why_not():
        pytest.skip(why)
    made = Network(tmp_path / "network", 2)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


def all_ranks(rig: Rig, run_id: str, ranks: int) -> list[int]:
    """The job's processes, once all ranks have met and make steps together."""
    rig.wait_for_step(run_id, ASSET, 2)
    wait_until(lambda: f"gloo: {ranks} ranks" in rig.story(run_id), 60, "the ranks have met")
    return rig.members(run_id)


def test_a_job_on_one_host_listens_on_the_loopback_alone(network: Network, tmp_path: Path) -> None:
    """The host has an address that others reach; neither they nor its own users can get into the job."""
    mark = tmp_path / "executed"
    hosts = [network.host(0, network_interface=None)]
    rig = Rig(tmp_path / "rig", hosts=hosts, store=network.store_uri, env=network.environment)
    try:
        rig.ready()
        rig.order(ASSET, steps=STEPS, seconds=0.1, hold=STEPS - 1, gloo=True)
        run_id = rig.launch(ASSET)
        members = all_ranks(rig, run_id, 1)
        places = listening(members)
        assert {address for address, _ in places} <= {"127.0.0.1"}, places
        here = ["ip", "netns", "exec", network.namespace(0)]
        for port in {port for _, port in places} | {29400}:
            assert attack("127.0.0.1", port, mark, prefix=here).returncode != 0
            assert attack(network.address(0), port, mark).returncode != 0
            beside = ["ip", "netns", "exec", network.namespace(1)]
            assert attack(network.address(0), port, mark, prefix=beside).returncode != 0
        rig.release(ASSET)
        assert_survived(rig, run_id, ASSET, STEPS)
        assert not mark.exists()
    finally:
        rig.close()


def test_a_job_on_two_hosts_listens_on_their_network_alone(network: Network, tmp_path: Path) -> None:
    """Its store can be reached there, which is why the network must be private; what is sent is not executed."""
    mark = tmp_path / "executed"
    hosts = [network.host(0, network_interface=None), network.host(1)]
    rig = Rig(tmp_path / "rig", hosts=hosts, store=network.store_uri, env=network.environment)
    try:
        rig.ready()
        rig.order(ASSET, steps=STEPS, seconds=0.1, hold=STEPS - 1, gloo=True)
        run_id = rig.launch(ASSET, tags={"aquarat/nodes": "2"})
        members = all_ranks(rig, run_id, 2)
        for k in range(2):
            places = listening(set(members) & set(network.pids(k)))
            assert {address for address, _ in places} == {network.address(k)}, places
        said = attack(network.address(0), 29400, mark)
        assert said.stdout.startswith("connected"), said.stderr
        assert attack("127.0.0.1", 29400, mark, prefix=["ip", "netns", "exec", network.namespace(0)]).returncode != 0
        rig.release(ASSET)
        assert_survived(rig, run_id, ASSET, STEPS)
        assert not mark.exists()
    finally:
        rig.close()


def test_ranks_on_one_host_meet_without_a_port(tmp_path: Path, root: Path) -> None:
    """Two real ranks, who are still there when their sockets are looked at."""
    program = tmp_path / "ranks.py"
    program.write_text(
        "import sys, torch; from pathlib import Path\n"
        "from aquarat_core.config import LaunchConfig\n"
        "from aquarat_core.training.distributed import distributed_world\n"
        "with distributed_world(LaunchConfig(device='cpu', nproc=2)) as world:\n"
        "    world.sum(torch.ones(1)); Path(sys.argv[1], f'rank{world.rank}').touch(); sys.stdin.read()\n"
    )
    command = [sys.executable, *torchrun.on_one_host(2, str(tmp_path / "meeting")), str(program), str(tmp_path)]
    # What a cluster sets for all its jobs does not make one of a single host listen to the network.
    env = {**os.environ, "PYTHONPATH": str(root), "GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"}
    job = subprocess.Popen(command, stdin=subprocess.PIPE, env=env)
    wait_until(lambda: len(list(tmp_path.glob("rank?"))) == 2, 60, "the ranks have met")
    pids = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _session_or_parent(pid, job.pid)]
    assert len(pids) == 3
    places = listening(pids)
    assert places and {address for address, _ in places} == {"127.0.0.1"}, places
    assert stat.S_IMODE((tmp_path / "meeting").stat().st_mode) == 0o700
    job.stdin.close()
    assert job.wait() == 0


def _session_or_parent(pid: int, leader: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return pid == leader or int(fields[1]) == leader


def test_a_meeting_place_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    open_to_all, mine = tmp_path / "open", tmp_path / "mine"
    open_to_all.mkdir(mode=0o777)
    open_to_all.chmod(0o777)
    mine.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(mine)
    for folder in (open_to_all, tmp_path / "link"):
        command = [sys.executable, *torchrun.on_one_host(2, str(folder)), "-m", "this"]
        out = subprocess.run(command, capture_output=True, text=True)
        assert out.returncode == 2
        assert f"torchrun: {folder} is not a folder that only this user may enter" in out.stderr


def test_an_address_that_the_host_does_not_have_is_named(root: Path) -> None:
    for node in (0, 1):
        start = torchrun.on_several_hosts(1, 2, node, f"192.0.2.7:{free_port()}", "j")
        command = [sys.executable, *start, "-m", "this"]
        env = {**os.environ, "PYTHONPATH": str(root), torchrun.ADDRESS: "192.0.2.7"}
        out = subprocess.run(command, capture_output=True, text=True, env=env)
        assert out.returncode == 2 and "no network interface of this host has the address 192.0.2.7" in out.stderr


def test_interfaces_are_found_by_their_address() -> None:
    assert torchrun.interface_of("127.0.0.1") == "lo"
    assert torchrun.interface_of("192.0.2.7") is None
    with pytest.raises(OSError):
        torchrun.interface_of("not an address")
