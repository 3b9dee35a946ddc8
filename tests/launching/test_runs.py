"""Launcher, executor, inventory and placement without a daemon: what they decide, from tags, events and files alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import dagster as dg
import pytest

from aquarat_core.config import load_profile
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline import workers
from aquarat_pipeline._compat import DagsterEvent, ErrorSource, ResumeRunContext, WorkerStatus
from aquarat_pipeline.hosts import queueing
from aquarat_pipeline.hosts.inventory import Host, InventoryError, read_inventory
from aquarat_pipeline.hosts.requirement import Requirement
from aquarat_pipeline.runs import resuming
from aquarat_pipeline.runs.executor import resuming_executor
from aquarat_pipeline.runs.launcher import GpuRunLauncher
from aquarat_pipeline.runs.submit import LaunchError, find_run
from aquarat_pipeline.tags import WORKER_TAG

pytestmark = pytest.mark.slow


@pytest.fixture
def launcher(instance: dg.DagsterInstance) -> GpuRunLauncher:
    made = GpuRunLauncher()
    made.register_instance(instance)
    return made


def run_with(worker: dict | None) -> dg.DagsterRun:
    return dg.DagsterRun(job_name="j", tags={WORKER_TAG: json.dumps(worker)} if worker else {})


def test_health_is_told_from_tags_alone(launcher: GpuRunLauncher) -> None:
    me = json.loads(workers.describe(os.getpid(), "shell"))
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    gone = json.loads(workers.describe(child.pid, "launcher"))
    child.wait()
    for worker, status in (
        (None, WorkerStatus.RUNNING),  # a run of someone else: never resumed behind its back
        (me, WorkerStatus.RUNNING),
        (gone, WorkerStatus.FAILED),
        ({**me, "started": me["started"] + 1}, WorkerStatus.FAILED),  # the number was given to another process
        ({**me, "boot": "before"}, WorkerStatus.FAILED),
        ({**gone, "host": "another-machine"}, WorkerStatus.RUNNING),
    ):
        assert launcher.check_run_worker_health(run_with(worker)).status == status, worker


def test_a_run_without_an_origin_cannot_be_resumed(launcher: GpuRunLauncher) -> None:
    with pytest.raises(dg.DagsterInvariantViolationError, match="no worker can load: run it again"):
        launcher.resume_run(ResumeRunContext(run_with(None), None, 1))


def dead_run(instance: dg.DagsterInstance, job: dg.JobDefinition) -> dg.DagsterRun:
    """A run that was to make `first` and `last`, whose worker died before it made anything."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    gone = workers.describe(child.pid, "shell")
    child.wait()
    run = instance.create_run_for_job(job, tags={WORKER_TAG: gone})
    instance.report_dagster_event(
        DagsterEvent(dg.DagsterEventType.RUN_START.value, job.name, message="started"), run_id=run.run_id
    )
    return instance.get_run_by_id(run.run_id)


def two_assets() -> dg.JobDefinition:
    @dg.asset
    def first() -> None: ...

    @dg.asset(deps=[first])
    def last() -> None: ...

    return dg.Definitions(assets=[first, last], executor=resuming_executor).resolve_implicit_global_asset_job_def()


def test_a_dead_run_is_resumed_within_a_day_only(launcher: GpuRunLauncher, instance: dg.DagsterInstance) -> None:
    run = dead_run(instance, two_assets())
    assert resuming.why_not(instance, run, 24.0) is None
    assert launcher.check_run_worker_health(run).status == WorkerStatus.FAILED
    assert not instance.get_run_by_id(run.run_id).is_finished, "it is taken up"
    old = GpuRunLauncher(resume_within_hours=0.0)
    old.register_instance(instance)
    time.sleep(0.01)
    assert old.check_run_worker_health(run).status == WorkerStatus.FAILED
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
    said = [e.message for e in instance.all_logs(run.run_id) if "Not resumed" in (e.message or "")]
    assert len(said) == 1
    assert "no run is resumed automatically. To make it now, run it again: aquarat launch first last" in said[0]


def test_a_dead_run_does_not_replace_what_a_newer_one_made_or_makes(
    launcher: GpuRunLauncher, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = two_assets()
    older, newer = dead_run(instance, job), dead_run(instance, job)
    assert resuming.why_not(instance, older, 24.0) is None, "its death was noticed at once: both go on"
    monkeypatch.setattr(resuming, "NOTICED_WITHIN_SECONDS", 0.0)
    why = resuming.why_not(instance, older, 24.0)
    assert why and f"run {newer.run_id[:8]}, which is newer, is making first, last" in why
    assert resuming.why_not(instance, newer, 24.0) is None
    instance.report_run_failed(newer)
    assert resuming.why_not(instance, older, 24.0) is None
    made = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("last")])
    why = resuming.why_not(instance, older, 24.0)
    assert why and f"run {made.run_id[:8]}, which is newer, has materialized last since" in why
    monkeypatch.undo()
    assert resuming.why_not(instance, older, 24.0) == why, "however soon its death was noticed"
    launcher.check_run_worker_health(older)
    assert instance.get_run_by_id(older.run_id).status == dg.DagsterRunStatus.FAILURE


def test_a_worker_that_waited_in_silence_is_resumed_by_its_sign_of_life(instance: dg.DagsterInstance) -> None:
    run = dead_run(instance, two_assets())
    day = 25 * 3600.0
    home = Path(instance.root_directory)
    with workers.only_worker(home, run.run_id, "worker"):
        seen = time.time() + day
        os.utime(home / f"aquarat/workers/{run.run_id}.lock", (seen, seen))
        with pytest.MonkeyPatch.context() as later:
            later.setattr(resuming.time, "time", lambda: seen + 60)
            assert resuming.why_not(instance, run, 24.0) is None
        workers.show_alive(home, run.run_id)
    with pytest.MonkeyPatch.context() as later:
        later.setattr(resuming.time, "time", lambda: seen + 60)
        assert "it has shown no sign of life for 25 h" in (resuming.why_not(instance, run, 24.0) or "")


def test_an_instance_that_names_the_launchers_old_module_uses_it_with_a_warning(root: Path, tmp_path: Path) -> None:
    text = (root / "dagster_home/dagster.yaml").read_text()
    old = text.replace("module: aquarat_pipeline.runs.launcher", "module: aquarat_pipeline.launching.launcher")
    assert old != text
    (tmp_path / "dagster.yaml").write_text(old)
    sys.modules.pop("aquarat_pipeline.launching.launcher", None)
    with pytest.warns(FutureWarning, match=r"Write `module: aquarat_pipeline.runs.launcher` instead"):
        instance = dg.DagsterInstance.from_config(str(tmp_path))
        launcher = instance.run_launcher
    with instance:
        assert isinstance(launcher, GpuRunLauncher)


def test_the_shipped_instance_uses_the_launcher(root: Path, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((root / "dagster_home/dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.run_launcher, GpuRunLauncher)
        assert instance.run_monitoring_max_resume_run_attempts == 20


def test_one_worker_a_run(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from aquarat_pipeline.workers import *\n"
        "try:\n  with only_worker(Path(sys.argv[1]), 'r', 'two'): print('in')\n"
        "except SecondWorkerError as e: print(e.holder, e)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with workers.only_worker(tmp_path, "r", "one"):
        out = subprocess.run(command, capture_output=True, text=True).stdout
        assert out.startswith("one run r already has a worker")
        assert workers.is_executing(tmp_path, "r")
    assert not workers.is_executing(tmp_path, "r")
    assert not workers.is_executing(tmp_path, "another")
    assert subprocess.run(command, capture_output=True, text=True).stdout == "in\n"


def resumable(calls: list[str], failing: set[str]) -> dg.Definitions:
    def asset(name: str, deps: list[str]) -> dg.AssetsDefinition:
        @dg.asset(name=name, deps=deps)
        def made() -> None:
            calls.append(name)
            if name in failing:
                raise failing_with[name]

        return made

    failing_with = {"stopped": KeyboardInterrupt(), "broken": dg.Failure("it is broken")}
    assets = [asset("first", []), asset("broken", []), asset("after_broken", ["broken"]), asset("stopped", ["first"])]
    return dg.Definitions(assets=[*assets, asset("last", ["stopped"])], executor=resuming_executor)


def test_a_resumed_run_does_what_is_left_and_fails_as_it_would_have(instance: dg.DagsterInstance) -> None:
    """One step succeeded, one failed for good, one was interrupted: only the last and what waits for it are run."""
    from dagster._core.execution.api import execute_run_iterator

    calls: list[str] = []
    failing = {"stopped", "broken"}
    job = resumable(calls, failing).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job)
    list(execute_run_iterator(_in_memory(job), run, instance))
    assert set(calls) == {"first", "broken", "stopped"}
    failed = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    sources = {entry.step_key: entry.dagster_event.step_failure_data.error_source for entry in failed}
    assert sources == {"broken": ErrorSource.FRAMEWORK_ERROR, "stopped": ErrorSource.INTERRUPT}

    calls.clear()
    failing.discard("stopped")
    started = run.with_status(dg.DagsterRunStatus.STARTED)
    events = list(execute_run_iterator(_in_memory(job), started, instance, resume_from_failure=True))
    assert calls == ["stopped", "last"]
    assert events[-1].event_type == dg.DagsterEventType.RUN_FAILURE
    assert len(list(instance.fetch_materializations(dg.AssetKey("first"), limit=9).records)) == 1


def _in_memory(job: dg.JobDefinition):
    from dagster._core.definitions.job_base import InMemoryJob

    return InMemoryJob(job)


# --- inventory and placement ------------------------------------------------------------------------------------------


def test_the_example_inventory_is_right_and_shows_every_field(root: Path, tmp_path: Path) -> None:
    text = (root / "dagster_home/hosts.example.yaml").read_text()
    (tmp_path / "hosts.yaml").write_text(text)
    (host,) = read_inventory(tmp_path).hosts
    assert host.model_fields_set == set(Host.model_fields)
    defaults = Host(name="x", address="y")
    for name in ("heartbeat_seconds", "lease_seconds", "grace_seconds", "min_free_gb", "rendezvous_port", "root"):
        assert getattr(host, name) == getattr(defaults, name), name


def test_without_a_file_this_machine_is_the_inventory(tmp_path: Path) -> None:
    (host,) = read_inventory(tmp_path).hosts
    assert (host.name, host.transport, host.root) == ("local", "local", f"{tmp_path}/agent")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hosts: []", "it names no host"),
        ("hosts: [{name: a, address: x}, {name: a, address: y}]", "two hosts have the same name"),
        ("hosts: [{name: a}]", "host a is reached over ssh but has no address: add `address: user@host`"),
        ("hosts: [{name: a, address: x, gpu: 8}]", "hosts.0.gpu: Extra inputs are not permitted"),
        ("hosts: [{name: a, address: -oProxyCommand=x}]", "an address cannot start with a dash"),
        ("hosts: [", "hosts.yaml, line 2, column 1: did not find expected node content"),
    ],
)
def test_what_is_wrong_with_an_inventory_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "hosts.yaml").write_text(text)
    with pytest.raises(InventoryError) as caught:
        read_inventory(tmp_path)
    assert message in str(caught.value)


def requirement(tags: dict[str, str], device: str = "auto") -> Requirement:
    config = load_profile("demo").sft_checkpoint.model_dump(mode="json")
    config["launch"] |= {"nproc": 4, "device": device}
    return Requirement.of(STAGES["sft_checkpoint"], config, tags)


def test_what_a_run_needs_comes_from_its_config_and_tags() -> None:
    need = requirement({"aquarat/pool": "a100", "aquarat/nodes": "2"}, device="cuda")
    assert str(need) == "2 hosts labeled a100 with 4 GPUs"
    assert need.fits(Host(name="h", address="h", gpus=4, labels=("a100",)))
    assert not need.fits(Host(name="h", address="h", gpus=2, labels=("a100",)))
    assert not need.fits(Host(name="h", address="h", gpus=8, labels=("h100",)))
    assert requirement({}, device="cpu").gpus_on(Host(name="h", address="h", gpus=8)) == 0
    assert requirement({}).fits(Host(name="h", address="h"))
    with pytest.raises(InventoryError, match="aquarat/nodes is 'two'"):
        requirement({"aquarat/nodes": "two"})


def test_waiting_is_said_once_and_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    waiting = queueing.WaitReporter(said.append)
    for why in ("a", "a", "b", "b"):
        waiting(why)
    assert said == ["Waiting for a", "Waiting for b"]
    later = time.monotonic() + queueing.REMIND_SECONDS + 1
    monkeypatch.setattr(queueing.time, "monotonic", lambda: later)
    waiting("b")
    assert len(said) == 3


def test_a_run_is_found_by_the_start_of_its_id(instance: dg.DagsterInstance) -> None:
    job = resumable([], set()).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job)
    assert find_run(instance, run.run_id[:8]).run_id == run.run_id
    with pytest.raises(LaunchError, match=r"no run of .* starts with 'zzzz'"):
        find_run(instance, "zzzz")
    with pytest.raises(LaunchError, match="too short"):
        find_run(instance, run.run_id[:3])
    instance.create_run_for_job(job, run_id=f"{run.run_id[:8]}{uuid.uuid4()}"[: len(run.run_id)])
    with pytest.raises(LaunchError, match="more than one run"):
        find_run(instance, run.run_id[:8])


def test_a_lease_shorter_than_two_heartbeats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lease_seconds is 5 but heartbeat_seconds is 5: .* at least twice"):
        Host(name="a", address="b", lease_seconds=5, heartbeat_seconds=5)
