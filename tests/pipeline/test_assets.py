"""Assets on an empty instance: what they need, what they record, and when they go stale."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from aquarat_core.artifacts import ArtifactStore, lineage
from aquarat_core.config import load_profile
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.checks.table import checks_of
from tests.pipeline.toy_chain import Chain, failure_text

pytestmark = pytest.mark.slow

DATA = ("aqua_dataset", "chat_datasets", "pretrain_text")
TO_SFT = (*DATA, "tokenizer", "pretrain_tokens", "base_checkpoint", "mid_checkpoint", "sft_checkpoint")


def test_a_missing_input_says_what_to_materialize(chain: Chain) -> None:
    result = chain.materialize("rl_checkpoint")
    assert not result.success
    text = failure_text(result, "rl_checkpoint")
    assert text.startswith("rl_checkpoint needs sft_checkpoint, which has not been materialized in ")
    assert chain.instance.root_directory in text
    assert "dagster asset materialize --select sft_checkpoint (or" in text
    assert "--select '*rl_checkpoint'" in text


def test_the_command_line_says_so_too(root: Path, tmp_path: Path, store_uri: str) -> None:
    shutil.copy(root / "dagster_home/dagster.yaml", tmp_path)
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "DAGSTER_MODULE_NAME": "aquarat_pipeline.definitions"}
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "--select", "rl_checkpoint"]
    out = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert out.returncode != 0
    assert f"rl_checkpoint needs sft_checkpoint, which has not been materialized in {tmp_path}." in out.stderr


@pytest.mark.parametrize("lasting", [True, False])
def test_an_instance_that_vanishes_is_refused(chain: Chain, monkeypatch: pytest.MonkeyPatch, lasting: bool) -> None:
    if lasting:
        monkeypatch.delenv("DAGSTER_HOME")
        result = chain.materialize("aqua_dataset")
    else:
        chain.instance = dg.DagsterInstance.ephemeral()
        result = chain.materialize("aqua_dataset")
    assert not result.success
    assert failure_text(result, "aqua_dataset").startswith("DAGSTER_HOME is not set, so Dagster would forget this run")


def test_a_value_out_of_range_stops_the_run_before_anything_starts(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError) as caught:
        chain.materialize("aqua_dataset", config={"aqua_dataset": {"max_level": 9}})
    assert "at path root:ops:aqua_dataset:config:max_level" in str(caught.value)
    assert "it must be ≥ 1 and ≤ 3, but is 9" in str(caught.value)
    assert chain.instance.get_runs() == []
    assert not list(tmp_path.glob("store/jobs/**/spec.json"))


def test_a_store_that_cannot_be_written_is_named(
    instance: dg.DagsterInstance, store_uri: str, tmp_path: Path, chain: Chain
) -> None:
    (tmp_path / "store").write_text("in the way")
    result = chain.materialize("aqua_dataset")
    assert not result.success
    text = failure_text(result, "aqua_dataset")
    assert store_uri in text and "cannot be used" in text


def test_a_materialization_records_what_a_person_wants_to_know(chain: Chain, order: Callable[..., None]) -> None:
    accuracy = {"accuracy": 0.25, "accuracy_lo": 0.2, "accuracy_hi": 0.3, "n": 2000}
    order("tokenizer", content="abc", metrics={"train_loss": 0.5, **accuracy, "questions": 8000, "nothing": None})
    first = chain.materialize(*DATA)
    result = chain.materialize("tokenizer")
    assert first.success and result.success
    event = chain.latest("tokenizer")
    metadata = {name: value.value for name, value in event.metadata.items()}
    assert metadata["metrics"] == {"train_loss": 0.5, **accuracy, "questions": 8000}
    assert metadata["result"] == "25.0% [20.0%, 30.0%] of 2,000"
    assert metadata["compared with"] == "training loss 0.500 nats per token"
    assert metadata["number/accuracy (%)"] == 25
    order_of_rows = [
        "result",
        "input/pretrain_text",
        "get it",
        "report page",
        "number/accuracy (%)",
        "metrics",
        "config",
    ]
    assert sorted(order_of_rows, key=list(metadata).index) == order_of_rows
    assert metadata["kind_of_questions"] == "generated word problems"
    assert metadata["profile"] == "demo"
    assert metadata["get it"] == f"aquarat store pull {metadata['manifest_sha256'][:8]} --to tokenizer"
    assert metadata["report page"] == f"/aquarat/reports/{metadata['manifest_sha256'][:8]}"
    assert metadata["report"] == "# Toy report\n"
    assert metadata["dagster/uri"].endswith(f"/manifests/{metadata['manifest_sha256']}.json")
    assert metadata["input/aqua_dataset/run"] == first.run_id
    assert event.metadata["input/aqua_dataset"].asset_key == dg.AssetKey("aqua_dataset")
    versions = {row.data["input"]: row.data["data version"] for row in event.metadata["inputs"].records}
    assert versions["aqua_dataset"] == chain.latest("aqua_dataset").tags["dagster/data_version"]
    stage = STAGES["tokenizer"]
    assert event.tags["dagster/code_version"] == code_version(stage, stage.config(load_profile("demo")))
    assert event.tags["dagster/data_version"] == metadata["data_version"]


def test_progress_becomes_observations_and_lines_in_the_run(chain: Chain) -> None:
    result = chain.materialize("aqua_dataset")
    assert result.success
    observations = chain.instance.fetch_observations(dg.AssetKey("aqua_dataset"), limit=10).records
    last, first = (record.event_log_entry.asset_observation for record in observations)
    assert (first.description, last.description) == ("1 of 3 steps", "3 of 3 steps"), "the first and the last at once"
    assert {name: value.value for name, value in last.metadata.items()} == {"train/loss": 0.3333}
    events = [entry.dagster_event for entry in chain.instance.all_logs(result.run_id)]
    lines = [event.message or "" for event in events if event and event.step_key == "aqua_dataset"]
    assert "Loading." in lines
    assert [line for line in lines if line.startswith("Progress: ")] == [
        "Progress: 1 of 3 steps  train/loss 1",
        "Progress: 3 of 3 steps  train/loss 0.3333",
    ]


def test_overrides_reach_the_stage_and_its_code_version(chain: Chain, store_uri: str) -> None:
    assert chain.materialize("aqua_dataset", config={"aqua_dataset": {"n_train": 77}}).success
    event = chain.latest("aqua_dataset")
    manifest = ArtifactStore.open(store_uri).get(event.metadata["manifest_sha256"].value).manifest
    assert manifest.config["n_train"] == 77
    profile = load_profile("demo")
    changed = profile.aqua_dataset.model_copy(update={"n_train": 77})
    assert event.tags["dagster/code_version"] == code_version(STAGES["aqua_dataset"], changed) == manifest.code.version
    assert manifest.code.version != code_version(STAGES["aqua_dataset"], profile.aqua_dataset)


def stale(chain: Chain, name: str) -> bool:
    graph = chain.defs.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(chain.instance, graph, LoadingContextForTest(chain.instance))
    return resolver.get_status(dg.AssetKey(name)) == StaleStatus.STALE


def test_rl_names_its_sft_and_goes_stale_with_its_weights_only(
    chain: Chain, order: Callable[..., None], store_uri: str
) -> None:
    order("sft_checkpoint", content="weights one")
    upstream = chain.materialize(*TO_SFT)
    rl = chain.materialize("rl_checkpoint")
    assert upstream.success and rl.success
    assert_event_and_manifest_name_the_same_sft(chain, upstream.run_id, rl.run_id, store_uri)
    assert not stale(chain, "rl_checkpoint")

    before = chain.latest("sft_checkpoint").metadata["manifest_sha256"]
    assert chain.materialize("sft_checkpoint").success
    assert chain.latest("sft_checkpoint").metadata["manifest_sha256"] != before
    assert not stale(chain, "rl_checkpoint"), "the same bytes from another run"

    order("sft_checkpoint", content="weights two")
    assert chain.materialize("sft_checkpoint").success
    assert stale(chain, "rl_checkpoint"), "other bytes"


def assert_event_and_manifest_name_the_same_sft(chain: Chain, sft_run: str, rl_run: str, store_uri: str) -> None:
    sft, event = chain.latest("sft_checkpoint"), chain.latest("rl_checkpoint")
    version = sft.tags["dagster/data_version"]
    assert event.tags["dagster/input_data_version/sft_checkpoint"] == version
    record = chain.instance.fetch_materializations(dg.AssetKey("sft_checkpoint"), limit=1).records[0]
    assert event.tags["dagster/input_event_pointer/sft_checkpoint"] == str(record.storage_id)
    assert chain.instance.get_run_by_id(rl_run).tags["aquarat/input/sft_checkpoint"] == version

    store = ArtifactStore.open(store_uri)
    artifact = store.get(event.metadata["manifest_sha256"].value)
    parent = next(p for p in artifact.manifest.parents if p.asset == "sft_checkpoint")
    assert (parent.manifest_sha256, parent.run_id) == (sft.metadata["manifest_sha256"].value, sft_run)
    tree = lineage(store, artifact.sha256)
    assert {node.artifact.asset for node in tree.parents} == {"sft_checkpoint", "aqua_dataset"}


def evaluations(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], bool]:
    return {(e.asset_key.to_user_string(), e.check_name): e.passed for e in result.get_asset_check_evaluations()}


def test_a_lost_file_fails_its_check(chain: Chain, tmp_path: Path) -> None:
    assert chain.materialize("aqua_dataset").success
    artifact = ArtifactStore.open(f"file://{tmp_path}/store").latest("aqua_dataset")
    sha256 = artifact.manifest.files[0].sha256
    (tmp_path / "store/blobs/sha256" / sha256[:2] / sha256).unlink()
    check = chain.check("aqua_dataset")["artifact_complete"]
    assert (check.passed, check.blocking, check.severity) == (False, True, dg.AssetCheckSeverity.ERROR)
    recorded = chain.instance.event_log_storage.get_asset_check_execution_history(check.asset_check_key, limit=5)
    assert [record.status.value for record in recorded] == ["FAILED", "SUCCEEDED"]


def test_lineage_that_disagrees_fails_its_check(chain: Chain) -> None:
    made = evaluations(chain.materialize(*DATA, "tokenizer"))
    names = {(name, check.name) for name in (*DATA, "tokenizer") for check in checks_of(STAGES[name])}
    assert made == dict.fromkeys(names, True) and ("tokenizer", "lineage_agrees") in made
    event = chain.latest("tokenizer")
    forged = {**event.tags, "dagster/input_data_version/aqua_dataset": "0" * 64}
    chain.instance.report_runless_asset_event(
        dg.AssetMaterialization("tokenizer", metadata=event.metadata, tags=forged)
    )
    assert not chain.check("tokenizer")["lineage_agrees"].passed


def test_a_report_below_the_constant_letter_warns(chain: Chain, order: Callable[..., None]) -> None:
    assert chain.materialize(*DATA, "tokenizer", "pretrain_tokens", "base_checkpoint").success
    for low, passed in ((0.26, True), (0.24, False)):
        metrics = {"accuracy": 0.3, "accuracy_lo": low, "accuracy_hi": 0.4, "n": 100, "constant_letter_accuracy": 0.25}
        order("base_eval_report", metrics=metrics)
        result = chain.materialize("base_eval_report")
        assert result.success, "a warning does not fail the run"
        found = next(e for e in result.get_asset_check_evaluations() if e.check_name == "beats_constant_letter")
        assert (found.passed, found.severity) == (passed, dg.AssetCheckSeverity.WARN)
        assert found.metadata["accuracy"].value == f"30.0% [{low:.1%}, 40.0%] of 100"
