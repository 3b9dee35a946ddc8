"""What only a Ray cluster can do wrong: its address, its hosts, and what is sent to them."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.errors import DataError, StageError, UserError
from aquarat_core.sharding import ray_client, ray_cluster, ray_task
from aquarat_core.sharding.driver import make_shards
from aquarat_core.sharding.executor import Ended, read_ended
from aquarat_core.sharding.processes import Processes
from aquarat_core.sharding.ray_cluster import RayCluster, check_address
from aquarat_core.sharding.records import ShardStore
from aquarat_core.sharding.version import project_version
from aquarat_core.stages import sharded
from tests.sharding.conftest import Cluster
from tests.sharding.toys import calls, spec


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Ray were installed, for what is looked at before it is used."""
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: name)


@pytest.mark.parametrize("address", ["nonsense", "10.0.0.5", "ray://", "ftp://a:1", "a:b", "--head:1 x", ""])
def test_what_is_no_address_is_refused(installed: None, address: str) -> None:
    with pytest.raises(UserError, match="write local, auto, HOST:PORT or ray://HOST:PORT"):
        check_address(address)


@pytest.mark.parametrize("address", ["http://head:8265", "https://head.example"])
def test_the_address_of_a_job_server_is_refused_with_the_form_to_give(installed: None, address: str) -> None:
    with pytest.raises(UserError, match=r"is the address of a job server or dashboard: give HOST:PORT of .* 6379"):
        check_address(address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_does_not_answer_ends_the_stage_at_once(
    installed: None, place: ShardStore, log: Path, scheme: str
) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{s.getsockname()[1]}"
    with pytest.raises(StageError, match=f"nobody answers at AQUARAT_RAY_ADDRESS={address}") as e:
        make_shards([spec(1, log)], place, lambda _: RayCluster(place, address, 2))
    assert "Shards that are done stay in the store" in str(e.value) and calls(log) == []


def test_without_ray_the_set_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\./run setup --ray"):
        check_address("local")


def as_client(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Lets a Python program stand in for the process that talks to Ray."""

    def popen(command: list[str], **rest: object) -> object:
        del command
        return start([sys.executable, "-c", program], **rest)

    start = ray_cluster.subprocess.Popen
    monkeypatch.setattr(ray_cluster.subprocess, "Popen", popen)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.stdin.read()", "Ray at AQUARAT_RAY_ADDRESS=auto gave no answer within 1 s"),
        ("pass", "the connection to Ray at AQUARAT_RAY_ADDRESS=auto was not made"),
        (
            'print(\'{"error": "other version of Ray", "again": false}\')',
            "Ray at AQUARAT_RAY_ADDRESS=auto: other version of Ray",
        ),
    ],
)
def test_a_connection_that_is_not_made_ends_the_stage_with_the_reason(
    installed: None, place: ShardStore, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    as_client(monkeypatch, program)
    before = psutil.Process().children()
    with pytest.raises(StageError, match=words):
        RayCluster(place, "auto", 2, patience=60 if program != "import sys; sys.stdin.read()" else 1)
    assert psutil.Process().children() == before


def test_a_connection_that_may_be_made_the_next_time_is_tried_again(
    installed: None, place: ShardStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_client(
        monkeypatch,
        f"import pathlib; first = pathlib.Path({str(tmp_path / 'first')!r})\n"
        "if first.exists(): print('{\"slots\": 3}', flush=True); input()\n"
        'first.touch(); print(\'{"error": "timeout", "again": true}\')',
    )
    cluster = RayCluster(place, "auto", 5)
    assert cluster.slots == 3
    cluster.close()


def test_as_many_attempts_as_the_cluster_has_cpus_now(
    installed: None, place: ShardStore, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_client(
        monkeypatch,
        "print('{\"slots\": 2}', flush=True); input()\n"
        "for slots in (7, 0): print(f'{{\"slots\": {slots}}}', flush=True); input()",
    )
    cluster = RayCluster(place, "auto", 5, patience=60)
    assert cluster.slots == 2
    cluster.start(1, spec(1, log))
    assert cluster.wait(60) == [] and cluster.slots == 5
    cluster.start(2, spec(2, log))
    assert cluster.wait(60) == [] and cluster.slots == 1
    cluster._patience = 0
    with pytest.raises(StageError, match="has had no CPU for 0 s: let a host join it"):
        cluster.wait(0.1)
    cluster.close()


def test_a_connection_that_ends_loses_what_was_running(
    installed: None, place: ShardStore, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_client(monkeypatch, "print('{\"slots\": 7}', flush=True); input(); raise SystemExit(3)")
    cluster = RayCluster(place, "auto", 5)
    assert cluster.slots == 5 and cluster.seconds(1) == 0
    cluster.start(1, spec(1, log))
    (ended,) = cluster.wait(60)
    assert (ended.attempt, ended.why) == (1, "lost") and "ended (exit code 3)" in ended.said
    cluster.start(2, spec(1, log))
    assert cluster.slots == 5, "it connects anew"
    cluster.close()


def test_a_reply_about_an_attempt_that_was_stopped_is_not_reported(
    installed: None, place: ShardStore, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Ended(number, None, "it failed", "fault").to_line().decode() for number in (1, 2))
    as_client(
        monkeypatch,
        "print('{\"slots\": 1}', flush=True); input();"
        f"print({first!r}, end='', flush=True); input(); input(); print({second!r}, end='', flush=True); input()",
    )
    cluster = RayCluster(place, "auto", 1)
    cluster.start(1, spec(1, log))
    cluster.stop(1)
    assert cluster.wait(60) == []
    cluster.start(2, spec(2, log))
    assert [ended.attempt for ended in cluster.wait(60)] == [2]
    cluster.close()


def test_without_a_connection_waiting_takes_its_time(
    installed: None, place: ShardStore, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_client(monkeypatch, "print('{\"slots\": 1}', flush=True); input()")
    cluster = RayCluster(place, "auto", 1)
    cluster.start(1, spec(1, log))
    assert [ended.why for ended in cluster.wait(60)] == ["lost"]
    began = time.monotonic()
    assert cluster.wait(0.1) == [] and time.monotonic() - began >= 0.1
    cluster.close()


def task_of(place: ShardStore, log: Path, function: str = "digits", version: str | None = None) -> str:
    task = spec(3, log, function).task(place.stage, place.store.uri)
    return json.dumps(task | {"attempt": 9, "version": version or project_version()})


def test_a_task_is_json_and_a_name(place: ShardStore, log: Path) -> None:
    sent = pickle.dumps(ray_task.make_shard)
    assert len(sent) < 100 and b"aquarat_core.sharding.ray_task" in sent and b"make_shard" in sent
    ended = read_ended(ray_task.make_shard(task_of(place, log)))
    assert ended.attempt == 9 and ended.record is not None and place.holds(ended.record)
    refused = read_ended(ray_task.make_shard(task_of(place, log, "refuses")))
    assert (refused.why, refused.kind) == ("user", DataError.__name__)
    assert refused.said == "shard 3 has no text. Choose another"


def test_a_host_with_other_sources_makes_nothing(place: ShardStore, log: Path) -> None:
    ended = read_ended(ray_task.make_shard(task_of(place, log, version="sources 0123456789ab and tokenizer 0.1.0")))
    assert ended.why == "user" and ended.record is None and calls(log) == []
    assert socket.gethostname() in ended.said
    assert f"({project_version()}) than the stage (sources 0123456789ab and tokenizer 0.1.0)" in ended.said


def test_a_host_without_the_project_is_a_mistake_that_the_user_can_mend() -> None:
    error = RuntimeError(
        "The remote function failed to import on the worker. This may be because needed library dependencies are not "
        "installed in the worker environment:\n\nTraceback (most recent call last):\n"
        "ModuleNotFoundError: No module named 'aquarat_core'\n"
    )
    ended = ray_client._lost(4, error)
    assert ended.why == "user" and "No module named 'aquarat_core'" in ended.said
    assert ray_client._lost(4, RuntimeError("gone\nfor good")).why == "lost"


def test_a_host_that_stores_elsewhere_ends_the_stage(
    installed: None, place: ShardStore, log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = ShardStore(ArtifactStore.open(f"file://{tmp_path}/elsewhere"), place.stage)
    reply = ray_task.make_shard(task_of(elsewhere, log).replace('"attempt": 9', '"attempt": 1'))
    as_client(
        monkeypatch, f"print('{{\"slots\": 1}}', flush=True); input(); print({reply.strip()!r}, flush=True); input()"
    )
    with pytest.raises(StageError, match=f"has stored shard shard-003 elsewhere: {place.store.uri} is another folder"):
        make_shards([spec(3, log)], place, lambda _: RayCluster(place, "auto", 1))


def test_the_variable_chooses_ray(place: ShardStore, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[str, int]] = []
    monkeypatch.setattr(sharded, "RayCluster", lambda shards, address, most: chosen.append((address, most)))
    large = [replace(spec(n, log), size=sharded.SMALL) for n in range(5)]
    monkeypatch.setenv("AQUARAT_RAY_ADDRESS", "10.0.0.5:6379")
    sharded._executor(place, large, None)
    sharded._executor(place, large, 3)
    assert chosen == [("10.0.0.5:6379", 5), ("10.0.0.5:6379", 3)]
    monkeypatch.setenv("AQUARAT_RAY_ADDRESS", " ")
    assert isinstance(sharded._executor(place, large, 2), Processes) and len(chosen) == 2


@pytest.mark.slow
def test_no_token_is_on_a_command_line_and_a_wrong_one_is_refused(
    place: ShardStore, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = RayCluster(place, cluster.address, 2)
    token = cluster.environment["RAY_AUTH_TOKEN"]
    below = [p for child in psutil.Process().children() for p in (child, *child.children(recursive=True))]
    ray.close()
    assert below
    assert not any(token in word for p in below if p.is_running() for word in _command(p))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(StageError) as e:
        RayCluster(place, cluster.address, 2)
    assert "0" * 64 not in str(e.value)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
def test_a_local_cluster_ends_with_the_stage(place: ShardStore, log: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: ./run setup --ray")
    before = psutil.Process().children(recursive=True)
    made = make_shards([spec(n, log) for n in range(3)], place, lambda _: RayCluster(place, "local", 2))
    assert [r.counts["number"] for r in made] == [0, 1, 2]
    assert psutil.Process().children(recursive=True) == before


@pytest.mark.slow
def test_the_workers_of_a_local_cluster_have_the_priority_of_the_stage(
    place: ShardStore, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: ./run setup --ray")
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    (made,) = make_shards([spec(1, log, "says")], place, lambda _: RayCluster(place, "local", 1))
    assert made.counts["niceness"] == os.getpriority(os.PRIO_PROCESS, 0)
