"""Dagster on Debian's PostgreSQL: the daemon, launches, kills and cancels; the database away; workers elsewhere."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from aquarat_core.agent import processes
from aquarat_pipeline import beats
from aquarat_pipeline.home import DatabaseError
from aquarat_pipeline.tags import PROFILE_TAG
from aquarat_pipeline.workers import worker_of
from tests.launching import faults
from tests.launching.cluster_fixture import Cluster
from tests.launching.kill_scenarios import ASSET, STEPS, cancelled, command_of, expect, training
from tests.launching.machines import control_host, lost_seconds, signal_all
from tests.launching.postgres import PASSWORD, Postgres, why_not
from tests.patience import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with control_host(server, tmp_path_factory.mktemp("here")) as made:
        yield made


def shell_elsewhere(here: Cluster, elsewhere: Cluster, **env: str) -> tuple[str, subprocess.Popen[bytes]]:
    """A run of `dagster asset materialize` on the other machine that trains, and its command."""
    here.order(ASSET, steps=STEPS, seconds=0.5, hold=STEPS - 1)
    known = {run.run_id for run in here.instance.get_runs()}
    command = elsewhere.shell(ASSET, **env)
    new = wait_until(lambda: [r for r in here.instance.get_runs() if r.run_id not in known], 90, "the run is there")
    run_id = new[0].run_id
    here.wait_for_step(run_id, ASSET, 2)
    assert worker_of(here.run(run_id).tags)["host"] == "elsewhere"
    return run_id, command


def said(cluster: Cluster, run_id: str) -> str:
    return (cluster.home / "aquarat" / "workers" / f"{run_id}.log").read_text()


# --- one machine ------------------------------------------------------------------------------------------------------


def test_a_run_is_launched_its_worker_killed_and_another_cancelled(here: Cluster, server: Postgres) -> None:
    faults.run_worker(here)
    run_id = training(here)
    commands = b"\n".join(command_of(pid) for pid in here.started())
    assert b"PostgresStorage" in commands and server.password.encode() not in commands
    connections = int(server.ask("SELECT count(*) FROM pg_stat_activity WHERE usename = 'dagster'"))
    assert connections < 10, "a process that waits holds none"
    cancelled(here, run_id)
    left = server.ask("SELECT count(*) FROM kvs WHERE key LIKE 'aquarat/heartbeat/%'")
    wait_until(lambda: left == "0", 5, "the heartbeats of ended runs are removed")
    logs = [*here.directory.glob("*.log"), *(here.home / "aquarat" / "workers").glob("*.log")]
    assert not any(server.password in path.read_text() for path in logs)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restarted", "crashed"])
def test_while_the_database_is_away_everything_waits_and_nothing_is_lost(
    here: Cluster, server: Postgres, how: signal.Signals
) -> None:
    run_id = training(here)
    worker = here.worker(run_id)
    server.stop(how)
    try:
        wait_until(lambda: "does not answer" in said(here, run_id), 30, "the worker says what it waits for")
        time.sleep(2)
    finally:
        server.start()
    assert expect(here, run_id, trainers=1)["redone"] == 0
    assert worker_of(here.run(run_id).tags)["pid"] == worker, "the same worker went on"
    assert "it is waited for, 600 s" in said(here, run_id) and "answers again, after" in said(here, run_id)
    assert here.wait(here.launch("aqua_dataset")) == "SUCCESS", "the daemon goes on too"


def test_a_database_that_refuses_us_is_said_at_once(server: Postgres, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"storage": server.storage()}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSWORD, "wrong")
        with pytest.raises(DatabaseError, match=r"refuses us .*password authentication failed.*dagster.yaml") as caught:
            dg.DagsterInstance.from_config(str(tmp_path))
    assert "wrong" not in str(caught.value)


def test_a_database_that_stays_away_is_given_up_with_a_sentence(tmp_path: Path) -> None:
    if why := why_not():
        pytest.skip(why)
    from aquarat_pipeline.database import PostgresStorage

    with pytest.raises(DatabaseError, match=r"at 127.0.0.1, port 1 has not answered for 1 s \(.*refused.*start it"):
        PostgresStorage("postgresql+psycopg2://dagster@127.0.0.1:1/x", 1.0, True, None)


# --- another machine --------------------------------------------------------------------------------------------------


def test_a_worker_elsewhere_lives_as_long_as_its_heartbeat(here: Cluster, elsewhere: Cluster) -> None:
    """Its profile is a file that only the other machine has, and its process id means nothing here."""
    profile = elsewhere.directory / "mine.yaml"
    profile.write_text("extends: demo\nname: mine\ndescription: Another's.\nsft_checkpoint: {launch: {nproc: 1}}\n")
    run_id, _ = shell_elsewhere(here, elsewhere, AQUARAT_PROFILE=str(profile))
    assert not processes.is_alive(worker_of(here.run(run_id).tags)), "this machine would call it dead"
    time.sleep(lost_seconds() + 3)
    assert "Resum" not in here.story(run_id)
    assert beats.last_seen(here.instance, run_id) > time.time() - 3 * beats.BEAT_SECONDS
    elsewhere.kill_everything()
    wait_until(lambda: worker_of(here.run(run_id).tags)["host"] != "elsewhere", 90, "the daemon resumes it here")
    assert "on elsewhere has shown no sign of life for" in here.story(run_id), here.story(run_id)
    expect(here, run_id, trainers=1)
    assert here.run(run_id).tags[PROFILE_TAG] == "mine"


def test_a_worker_that_stood_still_leaves_when_it_was_replaced(here: Cluster, elsewhere: Cluster) -> None:
    run_id, command = shell_elsewhere(here, elsewhere)
    signal_all(elsewhere, signal.SIGSTOP)
    wait_until(lambda: worker_of(here.run(run_id).tags)["host"] != "elsewhere", 90, "the daemon resumes it here")
    signal_all(elsewhere, signal.SIGCONT)
    wait_until(lambda: command.poll() is not None, 30, "the first worker exits")
    assert "and this one exits" in (elsewhere.directory / "shell.log").read_text()
    expect(here, run_id, trainers=1)


def test_a_run_elsewhere_is_cancelled_here(here: Cluster, elsewhere: Cluster) -> None:
    run_id, command = shell_elsewhere(here, elsewhere)
    cancelled(here, run_id)
    wait_until(lambda: command.poll() is not None, 30, "its worker exits")
    assert json.loads(here.run(run_id).tags[".dagster/aquarat/worker"])["host"] == "elsewhere"
