"""`aquarat status` beside what Dagster itself knows: real runs of toy stages, waiting, working and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from aquarat_core.artifacts import ArtifactStore
from aquarat_pipeline.assets.history import fresh
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.resources.profile import current_profile
from aquarat_pipeline.runs.records import Records, RecordsError
from aquarat_pipeline.runs.state import _progress
from tests.patience import wait_until
from tests.pipeline.terminal import Shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CLI = "aquarat_core.cli"


@pytest.fixture
def shell(root: Path, tmp_path: Path) -> Shell:
    return Shell(root, tmp_path)


def status(shell: Shell, **env: str) -> dict[str, Any]:
    done = shell.run(CLI, "status", "--json", **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def states(found: dict[str, Any]) -> dict[str, str]:
    return {asset["asset"]: asset["state"] for e in found["experiments"] for asset in e["assets"]}


@contextmanager
def working(shell: Shell, *assets: str) -> Iterator[None]:
    """`aquarat materialize`, whose last stage hangs, for as long as the block."""
    hanging = shell.directory / "hanging"
    shell.orders[assets[-1]] = {"hang": str(hanging)}
    command = [sys.executable, "-m", CLI, "materialize", *assets]
    process = subprocess.Popen(command, env=shell.environment, cwd=shell.directory, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: hanging.exists() or process.poll() is not None, 120, f"{assets[-1]} is at work")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        del shell.orders[assets[-1]]


def test_an_empty_home_says_how_to_begin_and_loads_no_dagster(shell: Shell) -> None:
    found = status(shell)
    assert set(states(found).values()) == {"missing"} and found["runs"] == [] and not found["daemon"]
    text = shell.run(CLI, "status").stdout
    assert "Nothing is made yet. `./run demo`" in text and "no Dagster daemon is running" in text
    assert max(len(line) for line in text.splitlines() if str(shell.directory) not in line) <= 80
    code = (
        "import sys; from aquarat_core.cli import main; main(['status', '--json'])\n"
        "print(sorted({'dagster', 'torch', 'numpy'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=shell.environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_what_was_made_is_fresh_until_its_inputs_change_as_dagster_says(shell: Shell) -> None:
    shell.orders["aqua_dataset"] = {"metrics": {"rows_train": 1234, "seconds": 2.0}}
    (shell.home / "hosts.yaml").write_text(
        yaml.safe_dump({"hosts": [{"name": "local", "transport": "local", "price_per_hour": 7200}]})
    )
    made = shell.run(CLI, "materialize", "tokenizer", "--with-parents")
    assert made.returncode == 0, made.stderr
    found = status(shell)
    here = {name for name, state in states(found).items() if state == "fresh"}
    assert here == {"aqua_dataset", "chat_datasets", "pretrain_text", "tokenizer"} == _fresh(shell)
    (aqua,) = [a for a in found["experiments"][0]["assets"] if a["asset"] == "aqua_dataset"]
    assert aqua["headline"] == "1,234 training questions" and aqua["created"].startswith(str(datetime.now(UTC).year))
    assert found["hosts"] == [{"name": "local", "gpus": 0, "price_per_hour": 7200.0, "runs": []}]
    (run,) = Records(shell.home).runs(time.time() - 600)
    seconds = sum((step.ended or 0) - step.began for step in Records(shell.home).steps(run.run_id))
    assert 0 < found["dollars_today"] <= 2 * seconds, "two dollars a second"

    shell.orders["aqua_dataset"] = {"content": "others"}
    assert shell.run(CLI, "materialize", "aqua_dataset", "--again").returncode == 0
    found = status(shell)
    assert states(found)["tokenizer"] == "stale"
    assert {name for name, state in states(found).items() if state == "fresh"} == _fresh(shell)
    assert "  tokenizer: made from another aqua_dataset" in shell.run(CLI, "status").stdout


def test_a_run_that_works_and_one_that_waits(shell: Shell) -> None:
    with working(shell, "aqua_dataset", "chat_datasets"):
        (run,) = status(shell)["runs"]
        assert (run["status"], run["step"], run["hosts"], run["profile"]) == (
            "STARTED", "chat_datasets", ["local"], "demo",
        )  # fmt: skip
        text = shell.run(CLI, "status").stdout
        assert f"{run['run_id'][:8]} running for " in text and ": 2 assets, profile demo" in text
        assert f"local (no GPU): used by run {run['run_id'][:8]}" in text
        queued = shell.run(CLI, "launch", "pretrain_text", "--json")
        assert queued.returncode == 0, queued.stderr
        runs = {one["run_id"]: one["status"] for one in status(shell)["runs"]}
        waiting = json.loads(queued.stdout)["run_id"]
        assert runs == {run["run_id"]: "STARTED", waiting: "QUEUED"}
        assert "so 1 queued run will not start" in shell.run(CLI, "status").stdout
        told = shell.run(CLI, "cancel", waiting[:8], "--json")
        assert json.loads(told.stdout) == {"run_id": waiting, "status": "CANCELED"}
    assert status(shell)["runs"] == []


def test_records_agree_with_dagster(shell: Shell) -> None:
    assert shell.run(CLI, "materialize", "aqua_dataset", "--set", "aqua_dataset.n_train=77").returncode == 0
    (known,) = shell.runs()
    (run,) = Records(shell.home).runs(time.time() - 600)
    assert (run.run_id, run.status, run.job) == (known.run_id, known.status.value, known.job_name)
    assert dict(known.tags).items() <= dict(run.tags).items()
    assert run.assets == ("aqua_dataset",) and run.tags["aquarat/set"] == "aqua_dataset.n_train=77"
    with dg.DagsterInstance.from_config(str(shell.home)) as instance:
        (record,) = instance.get_run_records()
        stats = {s.step_key: (s.start_time, s.end_time) for s in instance.get_run_step_stats(run.run_id)}
        instance.add_daemon_heartbeat(_beat(time.time()))
    assert (run.started, run.ended) == (record.start_time, record.end_time)
    assert abs(run.created - record.create_timestamp.timestamp()) < 1
    steps = {step.key: (step.began, step.ended) for step in Records(shell.home).steps(run.run_id)}
    assert steps.keys() == stats.keys()
    assert all(abs(a - b) < 0.01 for key in steps for a, b in zip(steps[key], stats[key], strict=True))
    assert Records(shell.home).runs(time.time() + 60) == []
    assert status(shell)["daemon"] is True
    with dg.DagsterInstance.from_config(str(shell.home)) as instance:
        instance.add_daemon_heartbeat(_beat(time.time() - 3600))
    assert status(shell)["daemon"] is False


def test_other_storage_is_said_and_the_rest_is_shown(shell: Shell) -> None:
    settings = yaml.safe_load((shell.home / "dagster.yaml").read_text())
    (shell.home / "dagster.yaml").write_text(yaml.safe_dump(settings | {"storage": {"sqlite": {"base_dir": "/x"}}}))
    with pytest.raises(RecordsError, match="`dagster run list` show"):
        Records(shell.home)
    found = status(shell)
    assert "runs are not shown" in found["problems"][0] and len(states(found)) == 15


def test_progress_is_that_of_the_last_report(shell: Shell) -> None:
    store = ArtifactStore.open(f"file://{shell.directory}/store")
    job = store.job("r", "rl_checkpoint", 1)
    assert _progress(job) == (0, 0, "")
    for number, messages in enumerate(([_report(3)], [_report(4), _report(5)], [], [{"method": "log"}]), 1):
        job.write_json(f"output/node0/{number:06d}.json", {"lines": [], "messages": messages})
    job.write_json("cursor.json", {"node0": 4})
    assert _progress(job) == (5, 90, "steps")


def test_a_damaged_store_is_shown_and_no_reason_to_fail(shell: Shell) -> None:
    assert shell.run(CLI, "materialize", "aqua_dataset", "chat_datasets").returncode == 0
    ref = shell.directory / "store" / "refs" / "aqua_dataset" / "latest.json"
    ref.write_text("{")
    found = status(shell)
    assert states(found)["aqua_dataset"] == "damaged" and states(found)["chat_datasets"] == "fresh"
    assert any(problem.startswith("aqua_dataset: ") for problem in found["problems"])


def _report(done: int) -> dict[str, Any]:
    payload = {"aquarat": "progress", "done": done, "total": 90, "unit": "steps", "metrics": {}}
    return {"method": "report_custom_message", "params": {"payload": payload}}


def _beat(when: float) -> Any:
    from dagster._daemon.types import DaemonHeartbeat

    return DaemonHeartbeat(when, "QUEUED_RUN_COORDINATOR", "x", [])


def _fresh(shell: Shell) -> set[str]:
    """What Dagster's own records call fresh."""
    held = {name: os.environ.get(name) for name in shell.environment}
    os.environ.update({name: shell.environment[name] for name in ("DAGSTER_HOME", "AQUARAT_STORE", "AQUARAT_CACHE")})
    try:
        with dg.DagsterInstance.from_config(str(shell.home)) as instance:
            experiment = Experiment(current_profile())
            store = ArtifactStore.open(f"file://{shell.directory}/store")
            return set(fresh(instance, store, experiment, experiment.stages))
    finally:
        for name, value in held.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
