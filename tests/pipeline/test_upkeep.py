"""The jobs that look after the store, and the presets of the launchpad."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import load_profile, profile_names
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.resources.store import StoreResource
from aquarat_pipeline.runs import profiles
from aquarat_pipeline.schedules import by_profile
from aquarat_pipeline.tags import PROFILE_HASH_TAG, PROFILE_TAG
from aquarat_pipeline.upkeep import upkeep
from tests.pipeline.toy_chain import Chain

pytestmark = pytest.mark.slow

RunJob = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run_job(chain: Chain, store_uri: str) -> RunJob:
    """Runs one of the jobs on the chain's instance and store."""
    defs = dg.Definitions.merge(
        upkeep([Experiment(load_profile("demo"))]), dg.Definitions(resources={"store": StoreResource(uri=store_uri)})
    )

    def run(name: str, run_config: dict | None = None) -> dg.ExecuteInProcessResult:
        job = defs.resolve_job_def(name)
        return job.execute_in_process(run_config=run_config, instance=chain.instance, raise_on_error=False)

    return run


def said(chain: Chain, result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(entry.user_message for entry in chain.instance.all_logs(result.run_id))


def test_a_sound_store_is_verified_and_its_checks_evaluated_again(chain: Chain, run_job: RunJob) -> None:
    assert chain.materialize("aqua_dataset", "chat_datasets").success
    result = run_job("verification")
    assert result.success
    text = said(chain, result)
    assert "The store is sound: 2 artifacts, 4 files" in text and "5 checks were evaluated: 0 warn, none fails." in text
    key = dg.AssetCheckKey(dg.AssetKey("aqua_dataset"), "artifact_complete")
    assert len(chain.instance.event_log_storage.get_asset_check_execution_history(key, limit=9)) == 2


def test_a_changed_byte_fails_the_verification(chain: Chain, run_job: RunJob, tmp_path: Path) -> None:
    assert chain.materialize("aqua_dataset").success
    artifact = ArtifactStore.open(f"file://{tmp_path}/store").latest("aqua_dataset")
    sha256 = artifact.manifest.files[0].sha256
    blob = tmp_path / "store/blobs/sha256" / sha256[:2] / sha256
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    result = run_job("verification")
    (failed,) = result.get_step_failure_events()
    description = failed.step_failure_data.user_failure_data.description
    assert not result.success and failed.step_key == "verify_store"
    assert description.startswith("1 problems in 1 artifacts") and sha256[:12] in description
    quick = run_job("verification", {"ops": {"verify_store": {"config": {"read": False}}}})
    assert quick.success, "a folder keeps no checksums beside the files, and the size is the same"


def test_a_lost_file_fails_the_checks(chain: Chain, run_job: RunJob, tmp_path: Path) -> None:
    assert chain.materialize("aqua_dataset").success
    shutil.rmtree(tmp_path / "store/manifests")
    (tmp_path / "store/manifests").mkdir()
    shutil.rmtree(tmp_path / "store/refs")
    result = run_job("verification")
    failed = [event for event in result.get_step_failure_events() if event.step_key == "evaluate_checks"]
    assert [event.step_failure_data.user_failure_data.description for event in failed] != []
    assert "Materialize aqua_dataset again." in failed[0].step_failure_data.user_failure_data.description


def test_the_preview_of_a_cleaning_removes_nothing(chain: Chain, run_job: RunJob, tmp_path: Path) -> None:
    assert chain.materialize("aqua_dataset").success
    store = tmp_path / "store"
    left = store / "tmp" / "left-by-a-killed-writer"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"x" * 4000)
    long_ago = time.time() - 3 * 86_400
    os.utime(left, (long_ago, long_ago))
    result = run_job("cleaning_preview")
    assert result.success and left.exists()
    text = said(chain, result)
    assert "`aquarat store gc --delete` would remove 1 objects, 4.0 kB, and keep 1 artifacts." in text
    refused = run_job("cleaning_preview", {"ops": {"list_garbage": {"config": {"retention_days": -1}}}})
    assert not refused.success


def test_their_schedules_are_off() -> None:
    defs = upkeep([Experiment(load_profile("demo"))])
    schedules = {schedule.name: schedule for schedule in defs.schedules or ()}
    assert schedules.keys() == {"weekly_verification", "weekly_cleaning_preview"}
    assert {schedule.default_status for schedule in schedules.values()} == {dg.DefaultScheduleStatus.STOPPED}


def test_every_profile_is_a_preset_and_its_worker_loads_it(chain: Chain, tmp_path: Path) -> None:
    experiment = Experiment(load_profile("demo"))
    defs = dg.Definitions.merge(chain.defs, dg.Definitions(jobs=[by_profile(experiment)]))
    job = defs.resolve_job_def("pipeline_by_profile")
    config = job.partitioned_config
    assert config is not None and config.get_partition_keys() == profile_names()
    for name in profile_names():
        profile = load_profile(name)
        values = config.get_run_config_for_partition_key(name)["ops"]
        assert values["rl_checkpoint"]["config"] == STAGES["rl_checkpoint"].config(profile).model_dump(mode="json")
        assert dg.validate_run_config(job, {"ops": values})
        tags = {key: config.get_tags_for_partition_key(name)[key] for key in (PROFILE_TAG, PROFILE_HASH_TAG)}
        assert tags == {PROFILE_TAG: name, PROFILE_HASH_TAG: profile.sha256}
        kept = profiles.recall(tmp_path, tags)
        assert kept is not None and load_profile(str(kept)).sha256 == profile.sha256
