"""When a node counts as lost: by its silence alone, or sooner by its host's word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aquarat_core.artifacts import JobDir
from aquarat_core.artifacts.backends import open_backend
from aquarat_pipeline.hosts.host import Host
from aquarat_pipeline.hosts.transports import HostError
from aquarat_pipeline.jobs import following
from aquarat_pipeline.jobs.following import HeartbeatMonitor

HOST = Host(name="a", address="a", heartbeat_seconds=5, lease_seconds=60, grace_seconds=30)
GONE = "a no longer runs the job: was it restarted?"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(following.time, "monotonic", lambda: made.now)
    return made


@pytest.mark.parametrize(
    ("status", "stop", "lost"),
    [
        ("running", None, None),
        ("gone", {"state": "stopped", "survivors": []}, GONE),
        ("unknown", {"state": "stopped", "survivors": []}, GONE),
        ("gone", {"state": "stopped", "survivors": [7]}, None),
        ("gone", HostError("away"), None),
        (HostError("away"), None, None),
    ],
)
def test_a_silent_host_is_asked(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, status: Any, stop: Any, lost: str | None
) -> None:
    asked: list[str] = []

    def answer(name: str, reply: Any) -> Any:
        asked.append(name)
        if isinstance(reply, Exception):
            raise reply
        return reply

    said = status if isinstance(status, Exception) else {"state": status}
    agent = SimpleNamespace(status=lambda *_: answer("status", said), stop=lambda *_: answer("stop", stop))
    monkeypatch.setattr(following, "HostAgent", lambda host: agent)
    folder = JobDir(open_backend(f"file://{tmp_path}"), "jobs/run/step/1")
    monitor = HeartbeatMonitor(SimpleNamespace(folder=folder), 0, HOST)
    assert monitor.detect_loss() is None
    clock.now += 15
    assert monitor.detect_loss() is None and asked == [], "three heartbeats may be late"
    clock.now += 2
    assert monitor.detect_loss() == lost and asked[0] == "status"
    before = len(asked)
    clock.now += 5
    assert monitor.detect_loss() is None and len(asked) == before, "it is not asked again at once"
    clock.now += 79
    assert monitor.detect_loss() == "a has been silent for 101 s, so its job must have stopped itself"
    monitor.reset()
    assert monitor.detect_loss() is None, "nobody could listen"
