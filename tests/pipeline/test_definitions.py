"""The code location as Dagster sees it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from aquarat_core.config import Profile, load_profile
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.registry import STAGES, used_stages
from aquarat_pipeline.assets.stage import stage_assets
from aquarat_pipeline.checks.table import checks_of
from aquarat_pipeline.experiments import Experiment

HEAVY = ("torch", "wandb", "datasets", "gcsfs", "google.cloud.storage", "pyarrow", "matplotlib", "pandas")
GROUPS = ("data", "tokenizer", "training", "evaluation", "release")
DEMO = used_stages(load_profile("demo"))


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("demo")


@pytest.fixture(scope="module")
def repository(profile: Profile) -> dg.RepositoryDefinition:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AQUARAT_PROFILE", raising=False)
        sys.modules.pop("aquarat_pipeline.definitions", None)
        from aquarat_pipeline.definitions import defs
    return defs.get_repository_def()


def test_importing_the_definitions_is_light() -> None:
    code = f"import sys, aquarat_pipeline.definitions; print([m for m in {HEAVY!r} if m in sys.modules])"
    environment = {k: v for k, v in os.environ.items() if k != "AQUARAT_PROFILE"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == "[]"


def test_every_stage_is_an_asset_with_its_inputs(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == set(DEMO)
    for name in DEMO:
        stage = STAGES[name]
        parents = {key.to_user_string() for key in graph.get(dg.AssetKey(name)).parent_keys}
        assert parents == set(stage.needs(stage.config(load_profile("demo")))), name


def test_folded_groups_make_a_graph_that_goes_one_way(repository: dg.RepositoryDefinition) -> None:
    """The UI shows groups folded at first, with an arrow wherever an asset of one feeds an asset of another."""
    graph = repository.asset_graph
    for key in graph.get_all_asset_keys():
        group = GROUPS.index(graph.get(key).group_name)
        assert all(GROUPS.index(graph.get(parent).group_name) <= group for parent in graph.get(key).parent_keys), key


@pytest.mark.parametrize("name", DEMO)
def test_every_asset_says_what_it_is(repository: dg.RepositoryDefinition, profile: Profile, name: str) -> None:
    node = repository.asset_graph.get(dg.AssetKey(name))
    stage = STAGES[name]
    assert node.description.startswith(stage.description)
    assert node.group_name in GROUPS
    assert node.kinds
    assert node.owners == ["team:aquarat"]
    assert node.code_version == code_version(stage, stage.config(profile))


def test_generated_data_are_not_called_the_hubs() -> None:
    """Neither by the description nor by the icon that the UI shows."""
    for source, kind, note in (("synthetic", "python", "not real data"), ("hub", "huggingface", "Hugging Face Hub")):
        names = ("aqua_dataset", "pretrain_text")
        profile = load_profile("demo", {name: {"source": source} for name in names})
        for asset in stage_assets(Experiment(profile), names):
            (spec,) = asset.specs
            assert kind in spec.kinds and note in spec.description
            assert ("huggingface" in spec.kinds) == (source == "hub")


def test_every_asset_is_checked(repository: dg.RepositoryDefinition) -> None:
    names = {(key.asset_key.to_user_string(), key.name) for key in repository.asset_graph.asset_check_keys}
    for name in DEMO:
        stage = STAGES[name]
        assert {check for asset, check in names if asset == name} == {check.name for check in checks_of(stage)}
        assert (name, "artifact_complete") in names
        assert ((name, "lineage_agrees") in names) == bool(stage.inputs)
        for check in ("beats_constant_letter", "not_worse_than_last", "parse_rate_holds"):
            assert ((name, check) in names) == name.endswith("_eval_report")


def test_reevaluation_trains_nothing_and_is_off(repository: dg.RepositoryDefinition) -> None:
    schedule = repository.get_schedule_def("weekly_reevaluation")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert schedule.job_name == "reevaluation"
    selected = repository.get_job("reevaluation").asset_layer.selected_asset_keys
    reports = {name for name, stage in STAGES.items() if stage.kind == "report"}
    assert {key.to_user_string() for key in selected} == reports


def test_sensors_are_off_but_the_one_that_guards_rentals(repository: dg.RepositoryDefinition) -> None:
    sensors = {sensor.name: sensor.default_status for sensor in repository.sensor_defs}
    off = dg.DefaultSensorStatus.STOPPED
    assert sensors == {
        "default_automation_condition_sensor": off,
        "evaluate_new_checkpoints": off,
        "keep_rentals": dg.DefaultSensorStatus.RUNNING,
        "notify_runs": off,
    }


@pytest.mark.slow
def test_the_workspace_file_serves_the_code_location(root: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    environment.pop("DAGSTER_MODULE_NAME", None)
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", str(root / "workspace.yaml")]
    out = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert "Validation successful for code location aquarat" in out.stderr + out.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "contents", "expected"),
    [
        ("nope", None, "unknown profile 'nope': choose one of"),
        (
            "bad.yaml",
            "extends: demo\nrl_checkpoint: {stepz: 3}\n",
            "rl_checkpoint.stepz: unknown field; did you mean steps? known here:",
        ),
        ("bad.yaml", "extends: demo\nrl_checkpoint: {temperature: -1}\n", "rl_checkpoint.temperature: Input should be"),
    ],
)
def test_a_bad_profile_is_one_paragraph(
    root: Path, tmp_path: Path, name: str, contents: str | None, expected: str
) -> None:
    shutil.copy(root / "dagster_home/dagster.yaml", tmp_path)
    if contents:
        (tmp_path / name).write_text(contents)
        name = str(tmp_path / name)
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "AQUARAT_PROFILE": name}
    environment["DAGSTER_MODULE_NAME"] = "aquarat_pipeline.definitions"
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "asset", "materialize", "--select", "aqua_dataset"]
    out = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert out.returncode != 0
    assert expected in out.stderr
    assert "Traceback" not in out.stderr
    assert len(out.stderr.strip().splitlines()) <= 3, out.stderr
