"""How the silence of a worker on another machine is counted, and what a database of one machine's own is spared."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import dagster as dg
import pytest

from aquarat_core.config import load_profile
from aquarat_pipeline import beats
from aquarat_pipeline.runs import profiles


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(beats.time, "monotonic", lambda: self.now)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_silence_lasts_as_long_as_the_heartbeat_stays_the_same(clock: Clock) -> None:
    silence = beats.Silence(60.0)
    assert silence.of("r", "one") == 0
    for seconds in (10, 20, 30):
        clock.pass_by(10)
        assert silence.of("r", "one") == seconds
    clock.pass_by(10)
    assert silence.of("r", "two") == 0
    clock.pass_by(10)
    assert silence.of("r", "two") == 10
    assert silence.of("other", None) == 0, "one that never wrote any is watched from now on"
    clock.pass_by(10)
    assert silence.of("other", None) == 10


def test_a_time_without_looking_is_no_silence(clock: Clock) -> None:
    """The database was away for a minute: the workers could not write any more than we could read."""
    silence = beats.Silence(60.0)
    silence.of("r", "one")
    clock.pass_by(10)
    silence.of("r", "one")
    clock.pass_by(70)
    assert silence.of("r", "one") == 0
    clock.pass_by(25)
    assert silence.of("r", "one") == 25


def test_runs_that_are_no_longer_looked_at_are_forgotten(clock: Clock) -> None:
    silence = beats.Silence(60.0)
    for number in range(100):
        silence.of(f"run {number}", "one")
        clock.pass_by(1)
    assert len(silence._seen) <= 31


def test_sqlite_belongs_to_one_machine_and_gets_neither_heartbeats_nor_profiles(instance: dg.DagsterInstance) -> None:
    assert not beats.is_shared(instance)
    profile = load_profile("tiny")
    with beats.beating(instance, "r"):
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("heartbeat")]
        profiles.share(instance, profile)
    assert beats.last_seen(instance, "r") == 0
    assert beats.last_beat(instance, "r") is None
    assert not instance.daemon_cursor_storage.get_cursor_values({f"aquarat/profile/{profile.sha256}"})


def test_without_the_optional_group_the_storage_says_what_to_install(root: Path) -> None:
    program = (
        "import sys; sys.modules['dagster_postgres'] = None\n"
        "from aquarat_core.errors import UserError\n"
        "try:\n  import aquarat_pipeline.database\nexcept UserError as e: print(e)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert said.stdout.strip().endswith(
        "storage needs dagster_postgres, which is not installed: pip install 'aquarat[postgres]'"
    ), said.stderr
