"""The dead-man's switch on a host, armed over a real ssh connection: it ends real jobs when nobody else does."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.agent import leases, processes, switch
from aquarat_core.agent.protocol import ArmRequest
from aquarat_pipeline.hosts.agent import HostAgent
from aquarat_pipeline.hosts.doctor import examine
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.transports import HostError, SshTransport
from tests.launching.network import SSHD, loopback
from tests.launching.test_agent import DEAF, HostHere
from tests.patience import wait_until

pytestmark = pytest.mark.slow

HOUR = 3600.0
SLEEPS = "import time; time.sleep(600)"
POWER_OFF = '#!/bin/sh\necho "$(basename "$0") $*" >> "$POWER"\n'


class HostOverSsh(HostHere):
    """A host behind a real sshd, whose `sudo` and `systemctl` write down how they are called."""

    def __init__(self, directory: Path, fields: dict[str, Any]) -> None:
        super().__init__(directory)
        self.host = Host(**fields)
        self.call = SshTransport(self.host).call
        self.agent = HostAgent(self.host)
        self.root = Path(self.host.root)

    def arm(self, end_in: float = HOUR, orphan_after: float = HOUR, power_off: bool = False) -> dict[str, Any]:
        request: ArmRequest = {"end_in": end_in, "orphan_after": orphan_after, "power_off": power_off}
        return dict(self.agent.arm(request))

    def switches(self) -> list[int]:
        """The processes of the switch: those with its log open."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.path.samefile(entry / "fd/1", self.root / switch.LOG):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def log(self) -> str:
        return (self.root / switch.LOG).read_text()


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostOverSsh]:
    if not shutil.which(SSHD) or not shutil.which("ssh"):
        pytest.skip("there is no sshd: install openssh-server and openssh-client")
    for name in ("sudo", "systemctl"):
        script(tmp_path / "bin" / name, POWER_OFF)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "POWER": str(tmp_path / "power")}
    with loopback(tmp_path, env) as (config, fields):
        monkeypatch.setenv("AQUARAT_SSH_CONFIG", str(config))
        made = HostOverSsh(tmp_path, fields)
        yield made
        SshTransport(made.host).close()
        for pid in made.switches():
            os.kill(pid, signal.SIGKILL)


def script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_at_the_end_of_the_rental_the_job_ends_and_the_host_powers_off(far: HostOverSsh, tmp_path: Path) -> None:
    order = far.order(code=SLEEPS)
    far.running(order)
    assert far.arm(end_in=3, power_off=True) == {"state": "armed", "started": True}
    SshTransport(far.host).close()
    assert far.ended(order)["reason"] == "the rental is over"
    power = tmp_path / "power"
    assert wait_until(lambda: power.exists() and power.read_text(), 20, "it powers off") == (
        "sudo -n systemctl poweroff\n"
    )
    assert far.call("start", far.order("next")) == {
        "state": "busy",
        "reason": "it takes no more jobs: the rental is over",
        "held": [],
    }
    assert far.arm() == {"state": "fired", "reason": "the rental is over"}, "a switch that has fired is not renewed"
    assert examine(far.host, prepared=False)["facts"]["switch"] == "has fired: the rental is over"
    logs = far.agent.tail({**order, "lines": 40})["logs"]
    assert "it ends the jobs of this host: the rental is over" in "\n".join(logs["switch.log"])


def test_without_sudo_it_powers_off_all_the_same(far: HostOverSsh, tmp_path: Path) -> None:
    script(tmp_path / "bin/sudo", "#!/bin/sh\necho 'a password is required'; exit 1\n")
    far.arm(end_in=0, power_off=True)
    power = tmp_path / "power"
    wait_until(lambda: power.exists() and power.read_text() == "systemctl poweroff\n", 20, "it powers off")
    assert "sudo -n systemctl poweroff: a password is required" in far.log()


def test_a_host_that_is_renewed_works_on_until_nobody_renews_it(far: HostOverSsh, tmp_path: Path) -> None:
    order = far.order(code=SLEEPS)
    far.running(order)
    began = time.monotonic()
    started = [far.arm(orphan_after=6)["started"]]
    while time.monotonic() - began < 8:
        started.append(far.arm(orphan_after=6)["started"])
        time.sleep(0.5)
    assert started == [True] + [False] * (len(started) - 1)
    assert processes.job_processes(order["mark"]), "it was renewed, so it works on"
    assert far.ended(order)["reason"] == "its control host was silent for 6 s"
    wait_until(lambda: not far.switches(), 10, "the switch is done")
    assert not (tmp_path / "power").exists(), "it was not asked to power off"


def test_the_last_limits_hold(far: HostOverSsh) -> None:
    order = far.order(code=SLEEPS)
    far.running(order)
    far.arm(end_in=2)
    far.arm(end_in=HOUR)
    time.sleep(4)
    assert processes.job_processes(order["mark"])
    facts = examine(far.host, prepared=False)["facts"]
    assert facts["switch"] == "fires in 60 min, or in 60 min unless renewed"
    far.arm(end_in=-1)
    far.ended(order)


def test_a_killed_switch_is_started_by_the_next_renewal(far: HostOverSsh) -> None:
    order = far.order(code=SLEEPS)
    far.running(order)
    far.arm(orphan_after=2)
    (pid,) = far.switches()
    os.kill(pid, signal.SIGKILL)
    facts = examine(far.host, prepared=False)["facts"]
    assert str(facts["switch"]).endswith("but its process has died")
    assert far.arm(orphan_after=2) == {"state": "armed", "started": True}
    far.ended(order)


def test_a_switch_killed_while_it_fires_is_done_by_the_next(far: HostOverSsh) -> None:
    order = far.order(code=DEAF, grace=3)
    far.running(order)
    far.arm(end_in=0)
    record = far.root / switch.RECORD
    wait_until(lambda: '"fired": "the' in record.read_text(), 10, "it fires", pause=0.02)
    for pid in far.switches():
        os.kill(pid, signal.SIGKILL)
    assert far.arm() == {"state": "fired", "reason": "the rental is over"}
    assert len(far.switches()) == 1
    assert far.ended(order)["code"] == -signal.SIGKILL


def test_of_many_that_arm_at_once_one_starts_the_switch(far: HostOverSsh) -> None:
    far.agent.leases()  # the agent is there
    (agent,) = (far.root / "agent").iterdir()
    command = [sys.executable, "-I", "-S", agent, "arm", far.root]
    asked = '{"end_in": 3600, "orphan_after": 3600, "power_off": false}'
    calls = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    said = [call.communicate(asked)[0] for call in calls]
    assert sum('"started": true' in line for line in said) == 1, said
    assert len(far.switches()) == 1


def test_a_disarmed_switch_goes(far: HostOverSsh) -> None:
    far.arm()
    assert far.agent.disarm() == {"state": "disarmed"}
    assert far.arm() in ({"state": "armed", "started": False}, {"state": "armed", "started": True})
    assert len(far.switches()) == 1
    far.agent.disarm()
    wait_until(lambda: not far.switches(), 10, "its process ends")
    assert far.agent.disarm() == {"state": "disarmed"}
    assert "switch" not in examine(far.host, prepared=False)["facts"]


def test_after_it_has_fired_jobs_come_in_again_by_disarm_and_drain(far: HostOverSsh) -> None:
    far.arm(end_in=0)
    wait_until(lambda: leases.drained(far.root), 10, "it fires")
    far.agent.disarm()
    far.agent.drain(None)
    order = far.order()
    assert far.call("start", order)["state"] == "started"
    far.ended(order)


def test_a_job_whose_supervisor_is_frozen_is_killed(far: HostOverSsh) -> None:
    order = far.order(code=DEAF, ttl=600, grace=1)
    far.running(order)
    supervisor = wait_until(lambda: far.folder(order).read("status/node0.json"), 10, "a heartbeat")["supervisor"]
    os.kill(supervisor["pid"], signal.SIGSTOP)
    try:
        far.arm(end_in=0)
        wait_until(lambda: not processes.job_processes(order["mark"]), 30, "the switch ends the job")
    finally:
        os.kill(supervisor["pid"], signal.SIGCONT)
    assert far.ended(order)["reason"] == "the rental is over"


def test_a_full_disk_does_not_keep_the_switch_from_being_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = {"ends": 1e9, "renewed": 0.0, "orphan_after": 1e9, "power_off": False, "fired": None}
    (tmp_path / switch.RECORD).write_text(str(waits) + " " * 200)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processes, "write_durably", full)
    switch._write(tmp_path, {**waits, "renewed": 7.0})
    found = switch._known(tmp_path, None)
    assert found is not None and found["renewed"] == 7.0


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"ends": 1}'])
def test_a_record_that_cannot_be_read_changes_nothing(tmp_path: Path, text: str) -> None:
    last = {"ends": 1.0, "renewed": 0.0, "orphan_after": 1.0, "power_off": False, "fired": None}
    (tmp_path / switch.RECORD).write_text(text)
    assert switch._known(tmp_path, last) == last
    (tmp_path / switch.RECORD).unlink()
    assert switch._known(tmp_path, last) is None


@pytest.mark.parametrize("limit", ["soon", None, float("nan"), True])
def test_a_limit_is_a_number(far: HostOverSsh, limit: Any) -> None:
    with pytest.raises(HostError, match="end_in is a number of seconds, not"):
        far.arm(end_in=limit)
    assert not (far.root / switch.RECORD).exists()
