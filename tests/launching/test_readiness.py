"""What is known before the first stage: hosts, store and disk that could never serve a run are refused at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from aquarat_core.agent.supervisor import _visible
from aquarat_core.artifacts import ArtifactStore, CodeVersion, StoreError
from aquarat_core.config import ConfigError, load_profile
from aquarat_core.durations import duration
from aquarat_core.errors import UserError
from aquarat_core.stages.costs import KNOWN_REPO
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.hosts import rentals
from aquarat_pipeline.hosts.host import InventoryError, RentedHost
from aquarat_pipeline.runs import disk_space, readiness, rentable
from aquarat_pipeline.runs.executor import resuming_executor, skip_checks
from aquarat_pipeline.runs.readiness import NotReadyError
from tests.launching.cluster_fixture import Cluster
from tests.patience import limit

pytestmark = pytest.mark.slow

NO_GPU = "hosts: [{name: here, transport: local}]\n"
NO_STORE = "file:///proc/nowhere"
"""Where nobody can write, whoever runs the tests."""
TRAINED = "base_checkpoint, mid_checkpoint, sft_checkpoint, rl_checkpoint"


@pytest.fixture
def home(tmp_path: Path, store_uri: str) -> Path:
    """A home whose one host has no GPU, beside an empty store."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/hosts.yaml").write_text(NO_GPU)
    return tmp_path / "home"


def ask(home: Path, profile: str, *names: str, run_config: Any = None, **tags: str) -> list[str]:
    """What is said of a run over the named stages, or all."""
    said: list[str] = []
    labeled = {f"aquarat/{name}": value for name, value in tags.items()}
    plan = Plan.of(names or STAGES, Experiment(load_profile(profile)), labeled, run_config)
    readiness.check(home, plan, said.append)
    return said


# --- hosts ------------------------------------------------------------------------------------------------------------


def test_what_no_host_could_give_is_refused_with_what_there_is(home: Path) -> None:
    with pytest.raises(NotReadyError) as caught:
        ask(home, "d12", "pretrain_text", *TRAINED.split(", "))
    assert str(caught.value) == (
        f"no host could ever run these stages ({TRAINED}: a host with 8 GPUs): {home}/hosts.yaml lists "
        "here (no GPU). List such a host in hosts.yaml (docs/hosts.md), choose a profile whose stages fit (demo, tiny; "
        "AQUARAT_PROFILE or --profile), or lower launch.nproc of these stages"
    )
    assert not (home.parent / "store").exists()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"host": "nope"}, r"asks for the host nope, but .*/hosts.yaml lists a \(4 GPUs, labeled big\), b \(1 GPU\)"),
        ({"pool": "tpu"}, r"a host labeled tpu for 2 processes\): .* ask for another host or label"),
        ({"nodes": "3"}, r"3 hosts for 2 processes each\): .* lists a \(4 GPUs, labeled big\), b"),
        ({"nodes": "3:4"}, r"3 to 4 hosts for 2 processes each\): .*, ask for fewer hosts \(--nodes\)"),
        ({"host": "b", "pool": "big"}, "the host b labeled big for 2 processes"),
    ],
)
def test_a_request_that_no_host_meets_is_refused(home: Path, tags: dict[str, str], message: str) -> None:
    (home / "hosts.yaml").write_text(
        "hosts: [{name: a, address: x, gpus: 4, labels: [big]}, {name: b, address: y, gpus: 1}]"
    )
    with pytest.raises(NotReadyError, match=message):
        ask(home, "demo", **tags)
    if "host" in tags and "pool" not in tags:
        with pytest.raises(NotReadyError, match=message):
            ask(home, "demo", "aqua_dataset", **tags)  # it would run here, but the request is a mistake all the same


def test_a_varying_number_of_hosts_needs_the_fewest(home: Path) -> None:
    (home / "hosts.yaml").write_text("hosts: [{name: a, address: x}, {name: b, address: y}]")
    assert ask(home, "demo", nodes="1:4")[0].endswith("in 2 processes each on each of 1 to 4 hosts of a, b")
    with pytest.raises(InventoryError, match="the run's tag aquarat/nodes is '3:2': the fewest hosts come first"):
        ask(home, "demo", nodes="3:2")


def test_a_host_that_fits_and_cannot_be_reached_is_waited_for(home: Path) -> None:
    (home / "hosts.yaml").write_text("hosts: [{name: away, address: nobody@nowhere.invalid, gpus: 8}]")
    assert ask(home, "d12")[0] == "hosts: 8 stages on this machine; 8 stages with 8 GPUs on away"


def test_a_rented_host_counts_unless_its_rental_ends_too_soon(home: Path) -> None:
    folder = rentals.folder_of(home, "r1")
    folder.mkdir(parents=True)
    for name in ("id_ed25519", "known_hosts"):
        (folder / name).touch()
    given = {"name": "r1", "address": "203.0.113.7", "user": "ubuntu", "gpus": 8, "identity": "id_ed25519"}
    rented = RentedHost.model_validate(given | {"folder": folder, "expires": time.time() + 7200})
    rentals.write(rented)
    assert ask(home, "d12")[0] == "hosts: 8 stages on this machine; 8 stages with 8 GPUs on r1"
    rentals.write(rented.model_copy(update={"expires": time.time() + 600}))
    listed = r"lists here \(no GPU\); rented: r1 \(8 GPUs; its rental ends at .* UTC, too soon for another job\)\. "
    with pytest.raises(NotReadyError, match=listed):
        ask(home, "d12")
    (home / "hosts.yaml").unlink()
    only = r"there is only this machine: local \(no GPU\); rented: r1 \("
    with pytest.raises(NotReadyError, match=only):
        ask(home, "d12")


def test_a_pool_that_could_serve_a_run_lets_it_wait(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rent = (
        "accounts: {lambda: {cloud: lambda, per_day: 300}}\n"
        "pools: {h100: {from: [{account: lambda, GPUS}], max_price_per_hour: 34, hours: 8, MORE}}\n"
    )

    def rented(gpus: str = "gpus: 8", more: str = "", **tags: str) -> str:
        (home / "rent.yaml").write_text(rent.replace("GPUS", gpus).replace("MORE", more))
        return ask(home, "d12", **{"pool": "h100", **tags})[0]

    with pytest.raises(UserError, match=r"could be prepared: the store is file://.*, which rented hosts cannot reach"):
        rented()
    monkeypatch.setattr(rentable, "why_not_here", lambda: None)
    assert rented(more="automatic: true") == (
        "hosts: 8 stages on this machine; 8 stages with 8 GPUs on a host of the pool h100 of rent.yaml (at most $34.00 "
        "an hour, rented when a stage has waited for 2 min)"
    )
    assert "as soon as a person has rented it: aquarat hosts rent --pool h100)" in rented()
    assert "; how many GPUs it has is seen then: aquarat hosts offers)" in rented("types: ['gpu_8x_*']")
    assert "on each of 2 hosts of the pool h100" in rented(nodes="2")
    assert "on each of 1 to 3 hosts of the pool h100" in rented(nodes="1:3"), "more than could be rented may be free"
    assert rented(budget="272") == rented(budget="$1000")
    for told, message in (
        (lambda: rented("gpus: 4"), "a host labeled h100 with 8 GPUs is needed, but the pool h100 of rent.yaml rents "
         "hosts of 4 GPUs at most"),
        (lambda: rented(nodes="3"), "rent.yaml never allows so many at a time: raise max_rentals or max_gpus of "
         "accounts.lambda"),
        (lambda: rented(more="max_rentals: 1", nodes="2"), "raise pools.h100.max_rentals"),
        (lambda: rented(budget="271.99"), "a budget of $271.99 is never enough for a host of the pool h100: 8 h at up "
         "to $34.00 an hour may cost $272.00. Raise the budget, or lower hours"),
        (lambda: rented(budget="272", nodes="2"), "2 hosts of the pool h100: 8 h at up to $34.00 an hour may cost "
         "$544.00"),
        (lambda: rented(budget="lots"), "the run's tag aquarat/budget is 'lots': 'lots' is not an amount of money"),
        (lambda: rented(budget="-1"), "an amount of money must be above 0"),
        (lambda: rented(pool="h10O"), "rent.yaml has no pool 'h10O': did you mean h100?"),
        (lambda: rented(gpus="gpu: 8"), "rent.yaml: pools.h100.from.0.gpu: there is no such setting: did you mean "
         "gpus?"),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            told()
        assert message in str(caught.value)
    (home / "rent.yaml").write_text(rent.replace("GPUS", "gpus: 8").replace("MORE", ""))
    with pytest.raises(NotReadyError, match=r"Name a pool of rent\.yaml to have a host rented: --pool h100"):
        ask(home, "d12")
    (home / "hosts.yaml").write_text("hosts: [{name: own, address: x, gpus: 8, labels: [h100]}]")
    (home / "rent.yaml").write_text("pools: nothing that can be read")
    assert ask(home, "d12", pool="h100")[0].endswith("8 stages with 8 GPUs on own"), "a host of our own serves it"


def test_without_an_inventory_this_machine_has_the_gpus_that_its_driver_shows(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "hosts.yaml").unlink()
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(
        "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do echo 'NVIDIA H100 80GB HBM3, 570, 80 GB'; done\n"
    )
    (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    assert "8 stages with 8 GPUs on this machine" in ask(home, "d12")[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    with pytest.raises(NotReadyError, match=r"without .*hosts.yaml there is only this machine: local \(2 GPUs\)"):
        ask(home, "d12")
    assert _visible([0, 1], "3,5,7") == "3,5"
    assert _visible([0, 1], "") == "0,1"


def test_an_inventory_that_cannot_be_read_is_refused(home: Path) -> None:
    (home / "hosts.yaml").write_text("hosts: [{name: a, gpu_count: 8}]")
    with pytest.raises(ValueError, match="gpu_count: Extra inputs are not permitted"):
        ask(home, "demo")


def test_the_runs_own_values_decide(home: Path) -> None:
    launch = load_profile("demo").rl_checkpoint.launch.model_dump(mode="json") | {"nproc": 4, "device": "cuda"}
    override = {"ops": {"rl_checkpoint": {"config": {"launch": launch}}}}
    with pytest.raises(NotReadyError, match=r"\(rl_checkpoint: a host with 4 GPUs\)"):
        ask(home, "demo", run_config=override)
    assert ask(home, "demo", "base_checkpoint", run_config=override)
    for field, value in (("target_flops", 1e300), ("tokens_per_parameter", 1e305)):
        endless = {"ops": {"base_checkpoint": {"config": {field: value}}}}
        with pytest.raises(
            ConfigError, match=rf"base_checkpoint.{field} 1e\+30. amounts to .* steps, but the limit is 10,000,000"
        ):
            ask(home, "demo", run_config=endless)


# --- store and disk ---------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_written_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUARAT_STORE", NO_STORE)
    with pytest.raises(StoreError, match=f"store {NO_STORE} cannot be used"):
        ask(home, "demo")
    with pytest.raises(StoreError, match="/proc/elsewhere cannot be used"):
        ask(home, "demo", run_config={"resources": {"store": {"config": {"uri": "file:///proc/elsewhere"}}}})


def test_too_little_disk_is_refused_with_what_it_is_for(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "hosts.yaml").write_text("hosts: [{name: away, address: x, gpus: 8}]")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    free = {"bytes": 2_000_000_000}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free["bytes"]))
    with pytest.raises(NotReadyError) as caught:
        ask(home, "d12")
    text = str(caught.value)
    assert text.startswith(f"the disk of {tmp_path}/store has 2.0 GB free, but the stages need at least about ")
    for what in (
        "artifacts ",
        "the state of unfinished training ",
        "local copies of inputs ",
        "scratch space ",
        "downloads 2.8 GB",
    ):
        assert what in text
    assert "AQUARAT_STORE, AQUARAT_CACHE, AQUARAT_SCRATCH or HF_HOME" in text
    free["bytes"] = 100_000_000_000
    assert any(line.endswith("to write, 100.0 GB free") for line in ask(home, "d12"))
    # A data set that the Hub's cache has is not fetched again.
    held = tmp_path / "hub/datasets--karpathy--fineweb-edu-100b-shuffle/blobs"
    held.mkdir(parents=True)
    with (held / "shard").open("wb") as f:
        f.truncate(3_000_000_000)
    free["bytes"] = 2_000_000_000
    with pytest.raises(NotReadyError) as caught:
        ask(home, "d12")
    assert "downloads" not in str(caught.value)


# --- estimates --------------------------------------------------------------------------------------------------------


def test_time_and_price_come_with_their_basis(home: Path) -> None:
    (home / "hosts.yaml").write_text(
        "hosts: [{name: dear, address: x, gpus: 8, gpu_kind: H100, price_per_hour: 40},"
        " {name: cheap, address: x, gpus: 8, gpu_kind: H100, price_per_hour: 20}]"
    )
    time = ask(home, "d12", "base_checkpoint", "rl_checkpoint")[-1]
    # 12 tokens for each of 110 million parameters, 760 MFLOPs each, at 38 % of 8 x 989 TFLOP/s: 334 s.
    assert time.startswith(
        "time: the training steps of base_checkpoint about 6 min on 8 x H100, about $1.9 by price_per_hour, at 38 % of "
        "the bf16 peak (d12 reached that on one H100; no other kind or number of GPUs was measured)"
    )
    assert time.endswith("; not known for rl_checkpoint (at most 480,000,000 sampled tokens)")
    (home / "hosts.yaml").write_text("hosts: [{name: odd, address: x, gpus: 8, gpu_kind: X1}]")
    time = ask(home, "d12", "base_checkpoint")[-1]
    assert time == "time: not known yet: no stage has been made with this config before (1.0e18 FLOPs of training)"


def test_what_was_made_before_by_the_same_config_is_measured(home: Path, store_uri: str, tmp_path: Path) -> None:
    profile = load_profile("demo")
    (tmp_path / "content").mkdir()
    (tmp_path / "content/x").write_text("x")
    store = ArtifactStore.open(store_uri)
    for name, seconds in (("aqua_dataset", 100.0), ("chat_datasets", 200.0), ("sft_checkpoint", 999.0)):
        store.publish(
            asset=name, kind=STAGES[name].kind, directory=tmp_path / "content", profile="demo", parents=(),
            config=STAGES[name].config(profile).model_dump(mode="json"), code=CodeVersion(version="1"),
            metrics={"seconds": seconds}, seeds={}, run_id="r",
        )  # fmt: skip
    names = ("aqua_dataset", "chat_datasets", "sft_checkpoint")
    time = ask(home, "demo", *names)[-1]
    # What sft_checkpoint was made from is not there: it may have been another model.
    assert time.startswith("time: about 5 min for 2 stages, as last time on ")
    assert "; not known for sft_checkpoint (" in time
    other = {"ops": {"aqua_dataset": {"config": {"seed": 77}}}}
    assert "about 3 min for 1 stage, as last time" in ask(home, "demo", *names, run_config=other)[-1]


def test_durations_are_not_more_exact_than_they_are() -> None:
    assert [duration(s) for s in (0.2, 44.4, 300, 5000, 9000, 86_400 * 3)] == [
        "1 s", "44 s", "5 min", "83 min", "2.5 h", "72 h"
    ]  # fmt: skip


def test_a_key_that_is_asked_for_and_missing_is_said(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    online = {"ops": {"sft_checkpoint": {"config": {"wandb": {"mode": "online"}}}}}
    assert ask(home, "demo", run_config=online)[-1].startswith("W&B: mode `online` is requested but WANDB_API_KEY")
    assert not any(line.startswith("W&B") for line in ask(home, "demo", "base_checkpoint", run_config=online))
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert not any(line.startswith("W&B") for line in ask(home, "demo", run_config=online))


# --- every way of starting --------------------------------------------------------------------------------------------


@pytest.fixture
def started(home: Path, root: Path) -> Iterator[Any]:
    """Runs a command in that home as a user would; afterwards nothing is materialized, queued or left in the store."""
    (home / "dagster.yaml").write_text((root / "dagster_home/dagster.yaml").read_text())

    def start(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "DAGSTER_HOME": str(home), "AQUARAT_PROFILE": "demo", **environment}
        env["DAGSTER_MODULE_NAME"] = "aquarat_pipeline.definitions"
        return subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, cwd=root, env=env, timeout=limit(100)
        )

    yield start
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert [run.status for run in instance.get_runs() if not run.is_finished] == []
        keys = instance.all_asset_keys()
        assert [key for key in keys if instance.get_latest_materialization_event(key)] == []
    store = home.parent / "store"
    assert not list(store.glob("jobs/*")) and not list(store.glob("manifests/*"))


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("--profile", "d12"), {}, "run these stages (base_checkpoint: a host with 8 GPUs)"),
        (("--host", "nope"), {}, "asks for the host nope"),
        ((), {"AQUARAT_STORE": NO_STORE}, f"store {NO_STORE} cannot be used"),
    ],
)
def test_launch_refuses(started: Any, arguments: tuple[str, ...], environment: dict[str, str], said: str) -> None:
    out = started("aquarat_core.cli", "launch", "aqua_dataset", "base_checkpoint", *arguments, **environment)
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr.startswith("aquarat: ") and said in out.stderr and len(out.stderr.splitlines()) == 1


def test_launch_says_what_the_run_needs_and_then_its_id(home: Path, root: Path) -> None:
    (home / "dagster.yaml").write_text((root / "dagster_home/dagster.yaml").read_text())
    env = {**os.environ, "DAGSTER_HOME": str(home), "AQUARAT_PROFILE": "demo"}
    command = [sys.executable, "-m", "aquarat_core.cli", "launch", "--with-parents", "base_checkpoint"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=root, env=env, timeout=limit(100))
    assert out.returncode == 0
    assert [line.split(":")[0].split(" of ")[0] for line in out.stderr.splitlines()] == [
        "hosts", "store", "disk", "time", "How it goes"
    ]  # fmt: skip
    assert out.stdout.startswith("run ") and out.stdout.splitlines()[0].endswith(" is queued")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AQUARAT_PROFILE": "d12"}, "run these stages (base_checkpoint: a host with 8 GPUs)"),
        ({"AQUARAT_STORE": NO_STORE}, f"store {NO_STORE} cannot be used"),
    ],
)
def test_materialize_refuses(started: Any, environment: dict[str, str], said: str) -> None:
    out = started("dagster", "asset", "materialize", "--select", "aqua_dataset,base_checkpoint", **environment)
    assert out.returncode == 1
    assert said in out.stderr
    assert "Traceback" not in out.stderr and "Stack Trace" not in out.stderr and "STEP_" not in out.stderr


def test_the_demo_refuses(started: Any) -> None:
    out = started("aquarat_pipeline.demo", AQUARAT_PROFILE="d12")
    answer = json.loads(out.stdout)
    assert (out.returncode, answer["ok"]) == (1, False)
    assert f"run these stages ({TRAINED}, base_eval_report" in answer["error"] and answer["error"] in out.stderr
    assert "Traceback" not in out.stderr


def test_a_daemons_run_whose_host_is_gone_before_it_starts_fails_with_the_sentence(cluster: Cluster) -> None:
    cluster.order("aqua_dataset", steps=1)
    run_id = cluster.launch("aqua_dataset", tags={"aquarat/host": "one"})
    cluster.write_hosts([cluster.local_host("two")])
    cluster.start_daemon()
    assert cluster.wait(run_id) == "FAILURE"
    assert f"asks for the host one, but {cluster.home}/hosts.yaml lists two (no GPU)" in cluster.story(run_id)
    assert cluster.materializations("aqua_dataset") == []


def test_a_run_that_its_own_process_has_checked_is_not_checked_again(
    instance: dg.DagsterInstance, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said stands in the run's events all the same; any other run of the process is asked."""
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run_iterator

    @dg.asset(name="base_checkpoint")
    def made() -> None: ...

    job = dg.Definitions(assets=[made], executor=resuming_executor).resolve_implicit_global_asset_job_def()
    (Path(instance.root_directory) / "hosts.yaml").write_text(NO_GPU)
    monkeypatch.setenv("AQUARAT_PROFILE", "d12")
    checked, other = instance.create_run_for_job(job), instance.create_run_for_job(job)
    skip_checks(checked.run_id, ["hosts: there are enough"])
    *_, last = execute_run_iterator(InMemoryJob(job), checked, instance)
    assert last.event_type == dg.DagsterEventType.RUN_SUCCESS
    assert "hosts: there are enough" in [entry.dagster_event.message for entry in instance.all_logs(checked.run_id)]
    *_, last = execute_run_iterator(InMemoryJob(job), other, instance)
    assert last.event_type == dg.DagsterEventType.RUN_FAILURE


def test_a_run_that_goes_on_is_not_refused_for_a_host_that_is_gone(
    instance: dg.DagsterInstance, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job may still run there, and is followed through the store."""
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run_iterator

    calls: list[str] = []

    @dg.asset(name="base_checkpoint")
    def made() -> None:
        calls.append("made")

    job = dg.Definitions(assets=[made], executor=resuming_executor).resolve_implicit_global_asset_job_def()
    (Path(instance.root_directory) / "hosts.yaml").write_text(NO_GPU)
    monkeypatch.setenv("AQUARAT_PROFILE", "d12")
    *_, failed = execute_run_iterator(InMemoryJob(job), instance.create_run_for_job(job), instance)
    error = failed.event_specific_data.error
    assert (error.cls_name, error.stack, calls) == ("NotReadyError", [], [])
    run = instance.create_run_for_job(job).with_status(dg.DagsterRunStatus.STARTED)
    list(execute_run_iterator(InMemoryJob(job), run, instance, resume_from_failure=True))
    assert calls == ["made"]


def test_a_download_that_gets_its_final_name_meanwhile_does_not_end_the_search_for_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = tmp_path / f"datasets--{KNOWN_REPO.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "whole").write_bytes(b"1234")
    (blobs / "gone.incomplete").symlink_to(tmp_path / "nowhere")
    real = Path.stat

    def stat(self: Path, **how: Any) -> os.stat_result:
        found = real(self, **how)
        if self.name == "whole":
            self.unlink()  # after the first look
        return found

    monkeypatch.setattr(Path, "stat", stat)
    assert disk_space._held(tmp_path) == 4
