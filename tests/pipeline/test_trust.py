"""A host may write into the store: what it puts there instead of the control host's decisions is not believed.

docs/hosts.md has the table of who trusts what, with the tests that show it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.artifacts.backends import open_backend
from aquarat_core.stages.base import SPEC_SHA256, StageSpec
from aquarat_pipeline.jobs.attempts import Attempt, ForgedJobError
from tests.pipeline.toy_chain import Chain, failure_text

pytestmark = pytest.mark.slow

FORGED = {
    "stage": "chat_datasets", "store": "gs://payroll-bucket/secret", "profile": "forged", "inputs": {}, "attempt": 1,
    "config": {"assistant_name": "EVILBOT"}, "code": {"version": "f" * 64, "commit": "attacker", "dirty": False},
}  # fmt: skip


@pytest.fixture
def planted(store_uri: str) -> Callable[..., None]:
    """`planted(run_id, names, step=...)` puts forged objects into a step's first folder."""

    def plant(run_id: str, *names: str, step: str = "chat_datasets") -> None:
        spec = {**FORGED, "run_id": run_id, "step_key": step}
        forged = {
            "launch.json": {"spec": spec, "retry": 0, "events": {}},
            "spec.json": spec,
            "inputs.json": {"aqua_dataset": {"parent": {}, "storage_id": 1}},
            "result.json": {"ok": True, "manifest_sha256": "0" * 64},
        }
        for name in names:
            open_backend(store_uri).write(f"jobs/{run_id}/{step}/1/{name}", json.dumps(forged[name]).encode())

    return plant


def materialize(chain: Chain, asset: str, run_id: str) -> dg.ExecuteInProcessResult:
    job = chain.defs.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=chain.instance, asset_selection=[dg.AssetKey(asset)], run_id=run_id, raise_on_error=False
    )


def test_a_planted_launch_record_is_passed_over(chain: Chain, planted: Callable[..., None], store_uri: str) -> None:
    run_id = str(uuid4())
    planted(run_id, "launch.json", "spec.json", "inputs.json", "result.json")
    assert materialize(chain, "chat_datasets", run_id).success
    made = ArtifactStore.open(store_uri).latest("chat_datasets").manifest
    assert (made.profile, made.code.commit == "attacker", made.config.get("assistant_name")) == (
        "demo",
        False,
        chain.latest("chat_datasets").metadata["config"].value["assistant_name"],
    )
    assert open_backend(store_uri).read(f"jobs/{run_id}/chat_datasets/2/launch.json") is not None


def test_a_planted_spec_is_refused(chain: Chain, planted: Callable[..., None]) -> None:
    run_id = str(uuid4())
    planted(run_id, "spec.json")
    text = failure_text(materialize(chain, "chat_datasets", run_id), "chat_datasets")
    assert f"jobs/{run_id}/chat_datasets/1/spec.json is not what this control host wrote" in text


@pytest.fixture
def attempt(chain: Chain, store_uri: str) -> tuple[dg.DagsterInstance, ArtifactStore, Attempt]:
    run = chain.instance.create_run_for_job(chain.defs.resolve_implicit_global_asset_job_def())
    store = ArtifactStore.open(store_uri)
    spec = StageSpec(
        stage="aqua_dataset", store=store.uri, profile="demo", config={"n_train": 5}, inputs={},
        code=CodeVersion(version="v"), run_id=run.run_id, step_key="aqua_dataset",
    )  # fmt: skip
    return chain.instance, store, Attempt.create(chain.instance, store, spec, 0, {})


def test_an_attempt_is_found_again_as_it_was_decided(
    attempt: tuple[dg.DagsterInstance, ArtifactStore, Attempt],
) -> None:
    instance, store, made = attempt
    run = made.spec.run_id
    assert Attempt.find(instance, store, run, "aqua_dataset", 0) == made
    assert Attempt.find(instance, store, run, "aqua_dataset", 1) is None
    following = made.next(instance, store)
    assert following.spec.attempt == 2 and Attempt.find(instance, store, run, "aqua_dataset", 0) == following


@pytest.mark.parametrize("name", ["launch.json", "spec.json"])
def test_a_changed_record_is_not_obeyed(attempt: tuple[dg.DagsterInstance, ArtifactStore, Attempt], name: str) -> None:
    instance, store, made = attempt
    held = made.folder.read_json(name)
    (held["spec"] if name == "launch.json" else held)["config"] = {"n_train": 6}
    made.folder.write_json(name, held)
    with pytest.raises(ForgedJobError, match=rf"{name} is not what this control host wrote"):
        Attempt.find(instance, store, made.spec.run_id, "aqua_dataset", 0)


def test_a_stage_does_not_run_a_spec_that_was_changed_after_its_start(
    attempt: tuple[dg.DagsterInstance, ArtifactStore, Attempt], root: Path
) -> None:
    _, store, made = attempt
    made.folder.write_json("spec.json", made.spec.model_dump(mode="json") | {"store": "file:///elsewhere"})
    command = [sys.executable, "-m", "aquarat_core.stages.run", f"{made.folder.uri}/spec.json"]
    env = {"PYTHONPATH": str(root), SPEC_SHA256: made.spec_sha256, "PATH": "/usr/bin:/bin", "HOME": str(root)}
    out = subprocess.run(command, capture_output=True, text=True, env=env)
    assert out.returncode == 2 and "spec.json is not what the control host wrote" in out.stderr
    assert store.latest("aqua_dataset") is None


@pytest.mark.parametrize("whose", ["another asset's", "an earlier run's"])
def test_a_result_that_names_what_the_run_did_not_make_is_not_materialized(
    chain: Chain, order: Callable[..., None], whose: str
) -> None:
    asset = "tokenizer" if whose == "another asset's" else "aqua_dataset"
    if asset == "tokenizer":
        assert chain.materialize("pretrain_text", "aqua_dataset", "chat_datasets", "tokenizer").success
    assert chain.materialize("aqua_dataset").success
    there = chain.latest(asset).metadata["manifest_sha256"].value
    latest = chain.latest("aqua_dataset")
    order("aqua_dataset", result=there)
    text = failure_text(chain.materialize("aqua_dataset"), "aqua_dataset")
    assert "is not what this run decided: it was written by someone else, and nothing is materialized" in text
    assert chain.latest("aqua_dataset") == latest
