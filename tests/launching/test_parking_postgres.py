"""Parked runs with PostgreSQL: a daemon on another machine takes them for alive as long as they are followed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from aquarat_core.agent import processes
from aquarat_pipeline.locks import is_held
from aquarat_pipeline.runs.follower_start import lock_of
from aquarat_pipeline.workers import is_parked, worker_of
from tests.launching.cluster_fixture import Cluster
from tests.launching.kill_scenarios import ASSET, cancelled, expect, training
from tests.launching.machines import control_host, lost_seconds
from tests.launching.postgres import Postgres
from tests.patience import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with control_host(server, tmp_path_factory.mktemp("here"), park_after_seconds=0.5) as made:
        yield made


def parked(cluster: Cluster) -> str:
    """A run whose job runs, without a worker, and followed."""
    run_id = training(cluster)
    wait_until(lambda: is_parked(cluster.home, run_id), 60, "the run is parked")
    wait_until(lambda: not processes.is_alive(worker_of(cluster.run(run_id).tags)), 20, "its worker ends")
    wait_until(lambda: is_held(lock_of(cluster.home)), 60, "a follower is at work")
    return run_id


def follower(cluster: Cluster) -> int:
    return json.loads(lock_of(cluster.home).read_text())["pid"]


def beats(server: Postgres) -> str:
    """How many runs have a heartbeat in the database."""
    return server.ask("SELECT count(*) FROM kvs WHERE key LIKE 'aquarat/heartbeat/%'")


def test_a_run_is_parked_goes_on_and_leaves_no_heartbeat(here: Cluster, server: Postgres) -> None:
    run_id = parked(here)
    assert beats(server) == "1"
    expect(here, run_id, trainers=1)
    assert "The parked run goes on with" in here.story(run_id)
    wait_until(lambda: beats(server) == "0", 20, "its heartbeat is removed")
    run_id = parked(here)
    cancelled(here, run_id)
    wait_until(lambda: beats(server) == "0", 20, "that of a cancelled run too")


def test_a_run_is_taken_over_by_the_daemon_elsewhere_once_it_is_not_followed(
    here: Cluster, elsewhere: Cluster, server: Postgres
) -> None:
    """The follower, which only stood still, then leaves the run alone."""
    run_id = parked(here)
    here.stop_daemon()
    elsewhere.start_daemon()
    stood, log = follower(here), elsewhere.directory / "daemon.log"
    try:
        wait_until(lambda: f"Checking run {run_id}" in log.read_text(), 60, "the daemon elsewhere checks the run")
        time.sleep(lost_seconds() + 3)
        assert "Resuming run" not in here.story(run_id), "it is followed here"
        os.kill(stood, signal.SIGSTOP)
        wait_until(lambda: worker_of(here.run(run_id).tags)["host"] == "elsewhere", 90, "it is resumed there")
        assert "has shown no sign of life for" in here.story(run_id)
        os.kill(stood, signal.SIGCONT)
        wait_until(lambda: not is_parked(here.home, run_id), 60, "the follower leaves it")
        expect(here, run_id, trainers=1)
        assert worker_of(here.run(run_id).tags)["host"] == "elsewhere"
        wait_until(lambda: beats(server) == "0", 20, "its heartbeat is removed")
    finally:
        with suppress(ProcessLookupError):
            os.kill(stood, signal.SIGCONT)
        elsewhere.stop_daemon()
        here.start_daemon()


def test_a_parked_run_is_cancelled_from_another_machine(here: Cluster, elsewhere: Cluster) -> None:
    run_id = parked(here)
    cancelled(here, run_id, cancel=lambda run: elsewhere.command("cancel", run))
    wait_until(lambda: not is_parked(here.home, run_id), 20, "it is not parked anymore")
    assert here.trace(run_id, ASSET)
