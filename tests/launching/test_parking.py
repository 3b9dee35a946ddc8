"""Parked runs: a run whose worker has ended while it waits is not dead, and goes on when there is something to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from aquarat_core.agent import processes
from aquarat_pipeline.locks import is_held
from aquarat_pipeline.runs import follower_start as followers
from aquarat_pipeline.runs import submit
from aquarat_pipeline.runs.follower_start import lock_of
from aquarat_pipeline.workers import is_parked, worker_of
from tests.launching.cluster_fixture import Cluster, assert_nothing_left
from tests.launching.kill_scenarios import ASSET, STEPS, cancelled, expect, training
from tests.patience import wait_until

pytestmark = pytest.mark.slow


def test_there_is_one_follower_however_long_it_takes_to_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that dies at once is started again after growing pauses."""
    children: list[subprocess.Popen[bytes]] = []

    def spawn(_: Path, lock: int) -> int:
        slow = [sys.executable, "-c", "import time; time.sleep(600)"]
        children.append(subprocess.Popen(slow, pass_fds=(lock,), start_new_session=True))
        return children[-1].pid

    now = time.time()
    monkeypatch.setattr(followers, "_spawn", spawn)
    monkeypatch.setattr(followers.time, "time", lambda: now)
    try:
        assert followers.start(tmp_path)
        assert not any(followers.start(tmp_path) for _ in range(20)), "it is on its way"
        for pause in (10, 20, 40):
            children[-1].kill()
            children[-1].wait()
            assert not followers.start(tmp_path)
            now += pause - 1
            assert not followers.start(tmp_path)
            now += 1
            assert followers.start(tmp_path), "it is not on its way anymore"
            os.utime(lock_of(tmp_path), (now, now))
        children[-1].kill()
        children[-1].wait()
        os.utime(lock_of(tmp_path), (now + 100, now + 100))
        now += 101
        assert followers.start(tmp_path), "one that had lived is replaced at once"
        assert len(children) == 5 and not followers.start(tmp_path)
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("parking"), park_after_seconds=0.5)
    yield made.ready()
    made.close()


def parked(cluster: Cluster, run_id: str) -> None:
    """Waits until the run has no worker, and a follower."""
    wait_until(lambda: is_parked(cluster.home, run_id), 60, "the run is parked")
    worker = worker_of(cluster.run(run_id).tags)
    wait_until(lambda: not processes.is_alive(worker), 20, "its worker ends")
    wait_until(lambda: is_held(lock_of(cluster.home)), 60, "a follower is at work")


def follower(cluster: Cluster) -> int:
    return json.loads(lock_of(cluster.home).read_text())["pid"]


def test_a_parked_run_trains_and_is_materialized(cluster: Cluster) -> None:
    run_id = training(cluster)
    parked(cluster, run_id)
    assert cluster.run(run_id).status == dg.DagsterRunStatus.STARTED
    expect(cluster, run_id, trainers=1)
    assert not is_parked(cluster.home, run_id)
    story = cluster.story(run_id)
    assert "The run is parked while the job runs on one" in story and "The parked run goes on with" in story
    assert "Resuming run" not in story, "the daemon does not take it for dead"
    log = (cluster.home / "aquarat/workers" / f"{run_id}.log").read_text()
    assert [log.count(f"step {step}\n") for step in range(1, STEPS + 1)] == [1] * STEPS, "every line is shown once"


def test_a_follower_that_is_killed_is_replaced(cluster: Cluster) -> None:
    run_id = training(cluster)
    parked(cluster, run_id)
    first = follower(cluster)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: follower(cluster) != first, 60, "another follower is at work")
    expect(cluster, run_id, trainers=1)


def test_a_job_that_dies_while_its_run_is_parked_starts_again(cluster: Cluster) -> None:
    run_id = training(cluster)
    parked(cluster, run_id)
    os.kill(cluster.supervisor(run_id), signal.SIGKILL)
    expect(cluster, run_id, trainers=2)
    assert "Starting again from the saved state (1/3)" in cluster.story(run_id)


def test_parked_runs_are_cancelled(cluster: Cluster) -> None:
    """One whose job runs, and one that waits for the host of the first."""
    first = training(cluster)
    parked(cluster, first)
    second = cluster.launch(ASSET)
    parked(cluster, second)
    assert "Waiting for a host for 1 process: one: in use by sft_checkpoint of run" in cluster.story(second)
    cancelled(cluster, second, left=1)
    cancelled(cluster, first)


def test_runs_that_wait_in_line_while_parked_go_on_in_order(cluster: Cluster) -> None:
    runs = [training(cluster)]
    parked(cluster, runs[0])
    cluster.order(ASSET, steps=1)
    for _ in range(2):
        runs.append(cluster.launch(ASSET))
        parked(cluster, runs[-1])
    os.kill(follower(cluster), signal.SIGKILL)
    submit.cancel(cluster.instance, cluster.run(runs[0]))
    for run_id in runs[1:]:
        assert cluster.wait(run_id, 240) == "SUCCESS", cluster.story(run_id)
        assert_nothing_left_of(cluster, run_id)
    began = [cluster.trace(run_id, ASSET)[0]["time"] for run_id in runs[1:]]
    assert began == sorted(began)


def assert_nothing_left_of(cluster: Cluster, run_id: str) -> None:
    wait_until(lambda: not cluster.members(run_id), 20, "the job's processes end")
    assert not is_parked(cluster.home, run_id)


def test_a_worker_that_dies_right_after_it_was_woken_is_replaced(cluster: Cluster) -> None:
    run_id = training(cluster)
    parked(cluster, run_id)
    before = cluster.worker(run_id)
    cluster.release(ASSET)
    woken = wait_until(lambda: cluster.worker(run_id) != before and cluster.worker(run_id), 60, "the run is woken")
    os.kill(woken, signal.SIGKILL)
    expect(cluster, run_id, trainers=1)
    assert_nothing_left(cluster, run_id)
