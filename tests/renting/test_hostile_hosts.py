"""What a rented host that is not ours anymore may answer: it is no sign of life, and harms nothing here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from aquarat_pipeline.hosts import transports
from aquarat_pipeline.hosts.host import RentedHost
from aquarat_pipeline.hosts.transports import HostError, SshTransport
from aquarat_pipeline.renting.managed.acceptance import Arming
from aquarat_pipeline.renting.managed.pulse import Pulse, feel

ARMED = {"state": "armed", "started": False}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RentedHost:
    """A host at whose other end, in place of ssh, is whatever `answering` writes."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("AQUARAT_STORE", f"file://{tmp_path}/store")
    folder = tmp_path / "rental"
    folder.mkdir()
    return RentedHost(name="h", folder=folder, address="203.0.113.7", user="ubuntu", expires=2e9)


def answering(host: RentedHost, program: str) -> None:
    path = host.folder.parent / "ssh"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\ncommand = sys.argv[-1]\n{program}\n")
    path.chmod(0o755)


def replies(host: RentedHost, leases: str) -> None:
    """`leases` is the text of the answer about leases."""
    (host.folder / "leases").write_text(leases)
    answering(
        host,
        f"print({json.dumps(ARMED)!r} if ' arm ' in command else open({str(host.folder / 'leases')!r}).read())",
    )


def look(host: RentedHost) -> Pulse:
    before = Pulse(True, {"run": 1})
    return feel(host, Arming(3600, 1800, False), ["run"], before, None)


LEASE: dict[str, Any] = {"owner": "run", "gpus": [0, 1], "step": "train"}


def test_an_agent_tells_which_runs_use_it(host: RentedHost) -> None:
    replies(host, json.dumps({"leases": [LEASE]}))
    assert look(host) == Pulse(True, {"run": 2})


@pytest.mark.parametrize(
    "text",
    [
        "", "5", "[]", "null", "{}", "[" * 100_000, '{"leases": 5}', '{"leases": [{"owner": 7, "gpus": []}]}',
        '{"leases": [{"owner": "run", "gpus": 3}]}', json.dumps({"leases": [{**LEASE, "owner": "x" * 10_000}]}),
        json.dumps({"leases": [{**LEASE, "owner": str(n)} for n in range(1000)]}),
    ],
)  # fmt: skip
def test_an_answer_that_no_agent_gives_is_no_sign_of_life(host: RentedHost, text: str) -> None:
    """Otherwise the host would count as alive, and at work, for as long as it is paid."""
    replies(host, text)
    found = look(host)
    assert not found.alive and found.why


def test_an_answer_without_end_is_cut_off(host: RentedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "MAX_OUTPUT", 1 << 20)
    for stream in ("stdout", "stderr"):
        answering(host, f"while True: os.write(sys.{stream}.fileno(), b'x' * 65536)")
        with pytest.raises(HostError, match="sent more than 1 MB"):
            SshTransport(host).shell("true", seconds=60)


def test_an_answer_that_does_not_come_is_a_host_error(host: RentedHost) -> None:
    answering(host, "import time; time.sleep(60)")
    with pytest.raises(HostError, match="does not answer within"):
        SshTransport(host).shell("true", seconds=0.2)


def test_what_is_given_and_answered_is_whole(host: RentedHost) -> None:
    answering(host, "sys.stdout.write(sys.stdin.read()); sys.stderr.write('said'); sys.exit(7)")
    given = b"0123456789" * 300_000
    done = SshTransport(host).shell("true", given)
    assert (done.returncode, done.stdout, done.stderr) == (7, given, b"said")


def test_a_host_that_does_not_read_is_no_error_by_itself(host: RentedHost) -> None:
    answering(host, "sys.stdin.close(); print('done')")
    assert SshTransport(host).shell("true", b"x" * 3_000_000).stdout == b"done\n"


def test_calls_leave_nothing_open(host: RentedHost) -> None:
    """Thousands of them are made while a host is rented."""
    replies(host, json.dumps({"leases": [LEASE]}))
    SshTransport(host).call("leases", {})
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        SshTransport(host).call("leases", {})
    assert len(list(Path("/proc/self/fd").iterdir())) == before
