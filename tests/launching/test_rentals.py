"""Rented hosts: their records beside hosts.yaml, their ssh connections, and the end of their lives."""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.agent import leases
from aquarat_core.cli import main
from aquarat_pipeline.hosts import rentals
from aquarat_pipeline.hosts.host import Host, InventoryError, RentedHost
from aquarat_pipeline.hosts.inventory import read_inventory
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.hosts.transports import HostError, SshTransport
from tests.launching.asking import answer_to
from tests.launching.cluster_fixture import FAST
from tests.launching.network import SSHD, Keys, Sshd
from tests.patience import wait_until
from tests.serving import free_port

NOW = 1_800_000_000.0
HOSTS = "hosts: [{name: own, address: x, gpus: 8, price_per_hour: 1}]"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one host of its own and the key of its rentals."""
    home = tmp_path / "a home"
    rentals.folder_of(home).mkdir(parents=True)
    (home / "hosts.yaml").write_text(HOSTS)
    rentals.folder_of(home, "id_ed25519").write_text("a key")
    return home


def rent(home: Path, rental: str, **fields: Any) -> RentedHost:
    """A rental that is ready."""
    folder = rentals.folder_of(home, rental)
    folder.mkdir()
    (folder / "known_hosts").touch()
    given = {"name": rental, "address": "203.0.113.7", "user": "ubuntu", "expires": NOW + 7200, "gpus": 8, **fields}
    host = RentedHost.model_validate(given | {"folder": folder})
    rentals.write(host)
    return host


def names(home: Path) -> list[str]:
    return [host.name for host in read_inventory(home).hosts]


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_rented_host_is_in_the_inventory_beside_hosts_yaml_until_it_is_removed(home: Path) -> None:
    host = rent(home, "r1", port=2222, labels=["h100"], gpu_memory_gb=80)
    assert names(home) == ["own", "r1"]
    assert read_inventory(home).get("r1") == host
    assert (host.folder / "host.json").stat().st_mode & 0o777 == 0o600
    assert "folder" not in json.loads((host.folder / "host.json").read_text()), "the home may be moved"
    rentals.remove(host)
    assert names(home) == ["own"]
    (home / "hosts.yaml").unlink()
    rent(home, "r2")
    assert names(home) == ["local", "r2"], "without hosts.yaml this machine is in its place"


def test_hosts_yaml_has_no_new_keys(home: Path) -> None:
    """A worker that is older than this version would refuse the whole file."""
    for key in set(RentedHost.model_fields) - set(Host.model_fields):
        (home / "hosts.yaml").write_text(f"hosts: [{{name: a, address: x, {key}: 1}}]")
        with pytest.raises(InventoryError, match=f"hosts.0.{key}: Extra inputs are not permitted"):
            read_inventory(home)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("", "Expecting value"),
        ("[]", "it is not a JSON object"),
        ("[" * 100_000, "recursion"),
        ({"name": "own"}, "another host is named own"),
        ({"name": "r2"}, "another host is named r2"),
        ({"expires": "soon"}, "expires: Input should be a valid number"),
        ({"expires": 1e300}, "expires: Input should be less than"),
        ({"address": "-oProxyCommand=touch /tmp/x"}, "address: String should match pattern"),
        ({"user": "root;reboot"}, "user: String should match pattern"),
        ({"port": 70_000}, "port: Input should be less than 65536"),
        ({"transport": "local"}, "transport: Input should be 'ssh'"),
        ({"version": 2}, "version: Input should be 1"),
        ({"identity": "../nowhere"}, "rentals/r3/../nowhere is missing"),
        ({"known_hosts": "nowhere"}, "rentals/r3/nowhere is missing"),
    ],
)
def test_a_broken_rental_leaves_out_only_itself(home: Path, change: Any, why: str) -> None:
    rent(home, "r2")
    broken = rent(home, "r3").folder / "host.json"
    broken.write_text(change if isinstance(change, str) else json.dumps(json.loads(broken.read_text()) | change))
    rent(home, "r4")
    inventory = read_inventory(home)
    assert [host.name for host in inventory.hosts] == ["own", "r2", "r4"]
    (problem,) = inventory.left_out
    assert problem.startswith("the rental r3 is left out: ") and why in problem and "\n" not in problem


def test_a_record_of_a_newer_version_is_read_without_what_is_new(home: Path) -> None:
    path = rent(home, "r1").folder / "host.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "blue"}))
    assert names(home) == ["own", "r1"]


def test_a_rental_without_a_record_is_not_ready(home: Path) -> None:
    rentals.folder_of(home, "r1").mkdir()
    assert names(home) == ["own"] and read_inventory(home).left_out == ()


# --- end of life ------------------------------------------------------------------------------------------------------


def test_no_job_starts_when_too_little_of_a_rental_is_left(home: Path) -> None:
    (home / "hosts.yaml").write_text("hosts: [{name: own, address: x, gpus: 8, price_per_hour: 9}]")
    rent(home, "r1", expires=NOW + 2000, margin_seconds=1800)
    need = Requirement(True, ranks=8, device="cuda")

    def found(after: float, need: Requirement = need) -> tuple[tuple[str, ...], str]:
        answer = answer_to(home, need, now=lambda: NOW + after)
        return answer.hosts, answer.why

    assert found(0) == found(200) == (("r1",), "")
    assert found(201) == (("own",), "")
    only = Requirement(True, host="r1")
    assert found(200, only) == (("r1",), "")
    ends = "hosts.yaml has 0 of these; r1 takes no job, because its rental ends at 2027-01-15 08:33 UTC, too soon"
    assert ends in found(201, only)[1]
    assert "its rental ended at 2027-01-15 08:33 UTC;" in found(2001, only)[1]
    assert names(home) == ["own", "r1"], "its job is still followed"


def test_rented_hosts_meet_others_at_a_private_address_only(home: Path) -> None:
    rent(home, "r1", network_address="10.0.0.7")
    rent(home, "r2")
    two = Requirement(True, ranks=8, nodes=2, device="cuda")
    assert sorted(answer_to(home, two, now=lambda: NOW).hosts) == ["own", "r1"]
    three = Requirement(True, ranks=8, nodes=3, device="cuda")
    assert "r2 takes no job, because it has no private address" in answer_to(home, three, now=lambda: NOW).why


def test_the_list_of_hosts_says_when_rentals_end_and_what_is_left_out(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert main(["hosts", "list"]) == 0
    assert "rented" not in capsys.readouterr().out
    rent(home, "r1", expires=time.time() + 7230, labels=["h100"])
    rent(home, "r2", expires=time.time() - 7200)
    (rent(home, "r3").folder / "host.json").write_text("{}")
    assert main(["hosts", "list"]) == 0
    head, own, first, second, problem = capsys.readouterr().out.splitlines()
    assert head.endswith("rented until") and own.split()[0] == "own"
    assert first.startswith("r1 ") and first.endswith(" UTC (in 2.0 h)")
    assert second.startswith("r2 ") and second.endswith(" UTC (over)")
    assert problem.startswith("the rental r3 is left out: ")


@pytest.mark.slow
def test_a_host_is_drained_by_hand(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    (home / "hosts.yaml").write_text(
        f"hosts: [{{name: here, transport: local, root: {tmp_path}/root, min_free_gb: 0}}]"
    )

    def said(*arguments: str) -> str:
        assert main(["hosts", *arguments]) == 0
        return capsys.readouterr().out.strip()

    want: Any = {"id": "a", "mark": "a", "job": "a", "owner": "0123456789", "step": "sft", "gpus": 0, "host_gpus": 0}
    assert said("drain", "here") == "here takes no more jobs, and none is there"
    assert "busy" in leases.acquire(tmp_path / "root", want | {"max_leases": 1, "ttl": 60})
    assert said("drain", "here", "--undo") == "here takes jobs again"
    assert "id" in leases.acquire(tmp_path / "root", want | {"max_leases": 1, "ttl": 60})
    assert said("drain", "here") == "here takes no more jobs; still there: sft of run 01234567"
    assert said("drain", "here", "--stop") == "here takes no more jobs; being stopped: sft of run 01234567"
    assert said("drain", "here") == "here takes no more jobs, and none is there"


@pytest.mark.slow
def test_the_doctor_complains_of_a_rental_that_is_left_out(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    (home / "hosts.yaml").write_text(
        f"hosts: [{{name: here, transport: local, root: {tmp_path}/root, min_free_gb: 0}}]"
    )
    assert main(["hosts", "doctor"]) == 0
    (rent(home, "r3").folder / "host.json").write_text("{}")
    assert main(["hosts", "doctor", "here"]) == 0
    assert "r3" not in capsys.readouterr().out
    assert main(["hosts", "doctor"]) == 1
    assert "\nthe rental r3 is left out: " in capsys.readouterr().out


# --- connections ------------------------------------------------------------------------------------------------------


class Machine:
    """An sshd on loopback with a host key of its own, at an address that others had before."""

    def __init__(self, directory: Path, name: str, port: int, home: Path) -> None:
        self.keys = Keys(directory / name)
        self.server = Sshd(self.keys, "127.0.0.1", port, {"AQ_MACHINE": name})
        shutil.copy(self.keys.client, rentals.folder_of(home, f"id_{name}"))
        self.host = rent(
            home, name, address="127.0.0.1", port=port, user=getpass.getuser(), identity=f"../id_{name}",
            root=str(directory / f"far {name}"), python=sys.executable, **FAST,
        )  # fmt: skip
        key = self.keys.host.with_suffix(".pub").read_text()
        (self.host.folder / "known_hosts").write_text(f"{name} {key}")

    def said(self) -> str:
        """The name that the machine at the end of the connection gives itself."""
        done = SshTransport(self.host).shell("echo $AQ_MACHINE")
        return done.stdout.decode().strip()


@pytest.fixture
def machines(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes machines that all have the same address, beside a user's configuration that would lead elsewhere."""
    if not shutil.which(SSHD) or not shutil.which("ssh"):
        pytest.skip("there is no sshd: install openssh-server and openssh-client")
    config = tmp_path / "ssh_config"
    config.write_text(
        f"Host *\n  User nobody\n  Port 1\n  UserKnownHostsFile {tmp_path}/none\n  HostKeyAlias other\n"
        f"  IdentityFile {tmp_path}/none\n  LocalForward 127.0.0.1:{free_port()} 127.0.0.1:1\n"
    )
    monkeypatch.setenv("AQUARAT_SSH_CONFIG", str(config))
    port = free_port()
    made: list[Machine] = []

    def make(name: str) -> Machine:
        made.append(Machine(tmp_path, name, port, home))
        return made[-1]

    yield make
    for machine in made:
        SshTransport(machine.host).close()
        machine.server.stop()


def masters(host: Host) -> list[int]:
    """The processes that hold the host's shared connection open."""
    argv = ["ssh", *SshTransport(host)._options(), "-G", "--", str(host.address)]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    (socket,) = (line.split()[1] for line in lines if line.startswith("controlpath "))
    found = subprocess.run(["pgrep", "-f", f"ssh: {socket} .mux."], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_a_rented_host_is_reached_by_its_record_alone(home: Path, machines: Any) -> None:
    first = machines("first")
    host = read_inventory(home).get("first")
    assert SshTransport(host).call("leases", {}) == {"leases": []}
    assert first.said() == "first"
    another = first.keys.client.with_suffix(".pub").read_text()
    (first.host.folder / "known_hosts").write_text(f"first {another}")
    SshTransport(host).close()
    with pytest.raises(HostError, match="Host key for first has changed"):
        first.said()


@pytest.mark.slow
def test_an_address_that_is_used_again_leads_to_the_new_host_and_never_the_old_call_to_it(machines: Any) -> None:
    first = machines("first")
    assert first.said() == "first"
    # The old machine's connection lives on, as in a provider's network that has not noticed yet.
    first.server.process.kill()
    first.server.process.wait()
    assert masters(first.host) and first.said() == "first"
    second = machines("second")
    assert second.said() == "second"
    rentals.remove(first.host)
    wait_until(lambda: not masters(first.host), 10, "the connection of what was rented is closed")
    assert masters(second.host)
    with pytest.raises(HostError, match="Host key for first has changed"):
        first.said()
