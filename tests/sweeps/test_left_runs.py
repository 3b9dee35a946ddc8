"""What a sweep's driver starts while runs end, wait or die: with runs in a real instance."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from aquarat_pipeline import workers
from aquarat_pipeline._compat import DagsterEvent
from aquarat_pipeline.sweeps import driving
from aquarat_pipeline.sweeps.planning import Cell, Launch, SweepPlan
from aquarat_pipeline.sweeps.spec import Sweep, read_sweep
from aquarat_pipeline.tags import EXPERIMENT_TAG, SWEEP_TAG, WORKER_TAG


@pytest.fixture
def sweep(write: Callable[[str], Path]) -> Sweep:
    return read_sweep(write("profile: demo\nfields: {aqua_dataset.n_train: [70]}\nmake: [aqua_dataset]\n"))


@pytest.fixture
def driver(
    sweep: Sweep, store_uri: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Iterator[driving.Driver]:
    monkeypatch.setattr(driving, "POLL_SECONDS", 0.0)
    yield driving.Driver(sweep, instance, lambda line: None, daemon=False)


def running(driver: driving.Driver, **tags: str) -> str:
    """A run that makes the sweep's only result; its id."""
    (point,) = driver.sweep.points
    run = dg.DagsterRun(
        job_name="made_up",
        status=dg.DagsterRunStatus.STARTED,
        tags={SWEEP_TAG: driver.sweep.name, EXPERIMENT_TAG: point.experiment.name, **tags},
        asset_selection=frozenset([point.experiment.key("aqua_dataset")]),
    )
    driver.instance.add_run(run)
    return run.run_id


def end(driver: driving.Driver, run_id: str) -> None:
    event = DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job_name="made_up")
    driver.instance.report_dagster_event(event, run_id)


def only_cell(driver: driving.Driver, made: bool) -> SweepPlan:
    (point,) = driver.sweep.points
    return SweepPlan((Cell(point, "aqua_dataset", "aqua_dataset", {}, "made" if made else "new"),))


def test_what_a_run_made_that_ended_just_now_is_not_started_again(
    driver: driving.Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = running(driver)

    def planned(*_: object) -> SweepPlan:
        before = driver.instance.get_run_by_id(run_id).is_finished
        end(driver, run_id)  # between this look at what is made and the next look at what runs
        return only_cell(driver, made=before)

    monkeypatch.setattr(driving, "planned", planned)
    started: list[Launch] = []
    driver.drive(started.append, None)
    assert started == [] and driver.failures == {}


def test_a_run_whose_worker_waits_elsewhere_is_left_alone_and_a_dead_one_is_not(driver: driving.Driver) -> None:
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker = workers.describe(ended.pid, "launcher")
    ended.communicate()
    run_id = running(driver, **{WORKER_TAG: worker})
    home = Path(driver.instance.root_directory)
    record = workers.parked(home) / f"{run_id}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({}))
    assert [run.run_id for run in driver._running()] == [run_id]
    workers.unpark(home, run_id)
    assert driver._running() == []
