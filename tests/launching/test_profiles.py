"""The profile that a run began with, and what is not taken for one."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest

from aquarat_core.config import ConfigError, load_profile
from aquarat_pipeline.runs import profiles
from aquarat_pipeline.runs.executor import resuming_executor
from aquarat_pipeline.runs.launcher import GpuRunLauncher
from aquarat_pipeline.tags import PROFILE_HASH_TAG, PROFILE_TAG


def test_a_profile_is_found_again_by_its_content(tmp_path: Path) -> None:
    mine = load_profile(None, {"name": "mine", "rl_checkpoint": {"steps": 7}})
    tags = profiles.remember(tmp_path, mine)
    assert profiles.remember(tmp_path, mine) == tags == {PROFILE_TAG: "mine", PROFILE_HASH_TAG: mine.sha256}
    kept = profiles.recall(tmp_path, tags)
    assert kept is not None and load_profile(str(kept)) == mine
    assert profiles.recall(tmp_path, {}) is None
    profiles.check(tags, mine)
    profiles.check({}, mine)
    with pytest.raises(profiles.ProfileMismatchError, match=r"started with profile mine .* has loaded demo"):
        profiles.check(tags, load_profile("demo"))


@pytest.mark.parametrize("sha256", ["/etc/hostname", "../../x", "f" * 64, "", "A" * 64])
def test_a_tag_cannot_name_a_file(tmp_path: Path, sha256: str) -> None:
    with pytest.raises(profiles.ProfileMismatchError, match=r"which is not in .*: run it again"):
        profiles.recall(tmp_path, {PROFILE_TAG: "x", PROFILE_HASH_TAG: sha256})


def test_a_kept_profile_that_was_changed_is_refused(tmp_path: Path) -> None:
    tags = profiles.remember(tmp_path, load_profile("demo"))
    kept = profiles.recall(tmp_path, tags)
    kept.write_text(kept.read_text().replace('"steps": 90', '"steps": 91'))
    with pytest.raises(profiles.ProfileMismatchError, match="was changed, or this version adds fields"):
        profiles.recall(tmp_path, tags)
    kept.write_text("[]")
    with pytest.raises(profiles.ProfileMismatchError, match="this version cannot read"):
        profiles.recall(tmp_path, tags)


def test_a_worker_gets_the_runs_profile_and_obeys_no_other_tag(instance: dg.DagsterInstance) -> None:
    launcher = GpuRunLauncher()
    launcher.register_instance(instance)
    home = Path(instance.root_directory)
    tags = profiles.remember(home, load_profile("tiny"))
    path = profiles.recall(home, tags)
    assert launcher._profile(dg.DagsterRun(job_name="j", tags=tags)) == {"AQUARAT_PROFILE": str(path)}
    assert launcher._profile(dg.DagsterRun(job_name="j", tags={PROFILE_TAG: "/etc/hostname.yaml"})) == {}


def test_a_run_is_not_executed_under_another_profile(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run_iterator

    calls: list[str] = []

    @dg.asset
    def made() -> None:
        calls.append(os.environ["AQUARAT_PROFILE"])

    job = dg.Definitions(assets=[made], executor=resuming_executor).resolve_implicit_global_asset_job_def()
    monkeypatch.setenv("AQUARAT_PROFILE", "demo")
    run = instance.create_run_for_job(job, tags=profiles.remember(Path(instance.root_directory), load_profile("tiny")))
    *_, failed = execute_run_iterator(InMemoryJob(job), run, instance)
    assert "one run has one profile, so nothing was executed" in failed.event_specific_data.error.message
    assert calls == []
    monkeypatch.setenv("AQUARAT_PROFILE", "tiny")
    list(execute_run_iterator(InMemoryJob(job), instance.create_run_for_job(job), instance))
    assert calls == ["tiny"]


def test_a_profile_at_another_depth_is_a_file_that_workers_and_experiments_can_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("AQUARAT_PROFILE", "demo")
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: d12\nname: mine\ndepth: 20\nbase_checkpoint: {optim: {lr_scale: 0.5}}\n")
    profiles.choose(str(mine), 16)
    followed = Path(os.environ["AQUARAT_PROFILE"])
    assert followed.is_relative_to(tmp_path / "aquarat" / "depths") and followed.name.startswith("mine-d16-")
    found = load_profile()
    assert found == load_profile(str(followed)) == load_profile(str(mine), depth=16)
    assert (found.depth, found.base_checkpoint.optim.lr_scale) == (16, 0.5)
    # The recipe again, not the last choice.
    profiles.choose("d12", 13)
    assert load_profile() == load_profile(depth=13)
    monkeypatch.setenv("AQUARAT_PROFILE", "tiny")
    with pytest.raises(ConfigError, match="profile tiny has values of its own"):
        profiles.choose(None, 8)
