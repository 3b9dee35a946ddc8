"""The driver of a sweep without a daemon: what it starts when runs end while it plans, and what a cancellation ends."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from aquarat_core.config import load_profile
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.runs.origin import job_origin
from aquarat_pipeline.sweeps import driving
from aquarat_pipeline.sweeps.planning import Cell, Launch, SweepPlan
from aquarat_pipeline.sweeps.spec import Point
from aquarat_pipeline.tags import EXPERIMENT_TAG, SWEEP_TAG

SWEEP: Any = SimpleNamespace(name="lr", points=())


@pytest.fixture
def instance(root: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    shutil.copy(root / "dagster_home/dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


@pytest.fixture
def driver(instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> driving.Driver:
    monkeypatch.setenv("AQUARAT_STORE", f"file://{tmp_path}/store")
    monkeypatch.setattr(driving, "POLL_SECONDS", 0.01)
    return driving.Driver(SWEEP, instance, lambda line: None, daemon=True)


def a_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
    return create_run_for_test(
        instance,
        status=status,
        tags={SWEEP_TAG: "lr", **tags},
        asset_selection=frozenset({dg.AssetKey("tokenizer")}),
        remote_job_origin=job_origin("tokenizer"),
    )


class Chain:
    """A sweep of one point with one stage, and whether it is made; a plan takes its time."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.point = Point(Experiment(load_profile("demo")), (), None, ("tokenizer",))
        self.made = False
        self.plans = 0
        self.runs: list[dg.DagsterRun] = []
        self.during_plan = lambda: None

    def planned(self, *_: Any) -> SweepPlan:
        self.plans += 1
        cell = Cell(self.point, "tokenizer", "new:1", {}, "made" if self.made else "new", maker=self.point)
        self.during_plan()
        return SweepPlan((cell,))

    def start(self, launch: Launch) -> dg.DagsterRun:
        self.runs.append(a_run(self.instance, dg.DagsterRunStatus.STARTED, **{EXPERIMENT_TAG: ""}))
        return self.runs[-1]

    def succeed(self) -> None:
        if self.runs and not self.made:
            self.made = True
            self.instance.report_dagster_event(
                dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, self.runs[-1].job_name), self.runs[-1].run_id
            )


def test_a_run_that_ends_while_the_sweep_is_planned_is_not_started_again(
    driver: driving.Driver, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(instance)
    monkeypatch.setattr(driving, "planned", chain.planned)
    monkeypatch.setattr(driving, "PLAN_SECONDS", 0.1)
    chain.during_plan = chain.succeed
    driver.drive(chain.start, None)
    assert len(chain.runs) == 1 and driver.failures == {}


def test_a_run_that_failed_before_the_next_look_is_not_started_again(
    driver: driving.Driver, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(instance)
    monkeypatch.setattr(driving, "planned", chain.planned)

    def fails(launch: Launch) -> dg.DagsterRun:
        run = chain.start(launch)
        instance.report_run_failed(run, "it failed")
        return run

    driver.drive(fails, None)
    assert len(chain.runs) == 1 and list(driver.failures) == ["tokenizer"]


def test_nothing_is_planned_while_nothing_changes(
    driver: driving.Driver, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(instance)
    monkeypatch.setattr(driving, "planned", chain.planned)
    looks = []
    unfinished = driving.unfinished

    def looked(*given: Any) -> list[dg.DagsterRun]:
        looks.append(1)
        if len(looks) == 50:
            chain.succeed()
        return unfinished(*given)

    monkeypatch.setattr(driving, "unfinished", looked)
    driver.drive(chain.start, None)
    assert len(looks) >= 50 and chain.plans == 2, "one before the run is started, one after it has ended"


def test_a_cancellation_ends_runs_that_wait_and_such_as_lost_who_created_them(instance: dg.DagsterInstance) -> None:
    runs = [a_run(instance, status) for status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)]
    other = a_run(instance, dg.DagsterRunStatus.QUEUED, **{SWEEP_TAG: "another"})
    assert set(driving.cancel(instance, "lr")) == {run.run_id for run in runs}
    assert driving.unfinished(instance, "lr") == []
    assert instance.get_run_by_id(other.run_id).status == dg.DagsterRunStatus.QUEUED


def test_a_run_that_is_created_during_the_cancellation_is_cancelled_too(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """The command that runs the sweep has seen no mark, and is slow to create the run."""
    late: list[dg.DagsterRun] = []
    held, done = threading.Event(), threading.Event()

    def drives() -> None:
        with driving.sole_driver(tmp_path, SWEEP):
            held.set()
            done.wait(30)
            late.append(a_run(instance, dg.DagsterRunStatus.QUEUED))

    thread = threading.Thread(target=drives)
    thread.start()
    held.wait(30)
    threading.Timer(1.0, done.set).start()
    ended = driving.cancel(instance, "lr")
    thread.join()
    assert ended == [late[0].run_id] and driving.unfinished(instance, "lr") == []


def test_a_command_that_does_not_notice_its_cancellation_is_named(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "CANCEL_SECONDS", 0.0)
    with (
        driving.sole_driver(tmp_path, SWEEP),
        pytest.raises(driving.SweepError, match=r"but process \d+ still runs it after 0 s: end that process"),
    ):
        driving.cancel(instance, "lr")
