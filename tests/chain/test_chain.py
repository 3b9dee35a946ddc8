"""The whole chain, as a user runs it: every asset materialized, what fed what, and a policy that really learned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import load_profile
from aquarat_core.evaluation.statistics import mcnemar_exact
from aquarat_core.stages.registry import used_stages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def chain(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, str]]:
    """The demo's answer and the environment it ran in."""
    base = tmp_path_factory.mktemp("chain")
    home = base / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text((root / "dagster_home/dagster.yaml").read_text())
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "DAGSTER_MODULE_NAME": "aquarat_pipeline.definitions",
        "AQUARAT_STORE": f"file://{base}/store",
        "AQUARAT_CACHE": str(base / "cache"),
        "AQUARAT_PROFILE": str(Path(__file__).with_name("short.yaml")),
    }
    environment.pop("WANDB_API_KEY", None)
    environment.pop("WANDB_MODE", None)
    command = [sys.executable, "-m", "aquarat_pipeline.demo"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert out.returncode == 0, out.stderr[-4000:]
    answer = json.loads(out.stdout.splitlines()[-1])
    return answer | json.loads(Path(answer["details"]).read_text()), environment


def test_every_asset_is_there_and_intact(chain: tuple[dict[str, Any], dict[str, str]]) -> None:
    answer, _ = chain
    assert answer["ok"] is True and set(answer["assets"]) == set(used_stages(load_profile("demo")))
    store = ArtifactStore.open(answer["store"])
    for name, facts in answer["assets"].items():
        artifact = store.get(facts["manifest_sha256"])
        assert (artifact.asset, artifact.data_version, artifact.uri) == (name, facts["data_version"], facts["uri"])
        assert artifact.is_complete()


def test_sft_beats_the_best_constant_letter_and_rl_beats_sft(chain: tuple[dict[str, Any], dict[str, str]]) -> None:
    evaluated = chain[0]["eval"]
    sft, rl = evaluated["sft"], evaluated["rl"]
    assert sft["n"] == rl["n"] == 2000
    assert sft["ci"][0] > evaluated["constant_letter"]
    assert rl["accuracy"] > sft["accuracy"]
    assert evaluated["mcnemar_p"] < 0.01


def test_the_manifest_and_the_event_name_the_sft_checkpoint_that_fed_rl(
    chain: tuple[dict[str, Any], dict[str, str]],
) -> None:
    answer, environment = chain
    store = ArtifactStore.open(answer["store"])
    sft = store.get(answer["assets"]["sft_checkpoint"]["manifest_sha256"])
    rl = store.get(answer["assets"]["rl_checkpoint"]["manifest_sha256"])
    (parent,) = [p for p in rl.manifest.parents if p.asset == "sft_checkpoint"]
    assert (parent.manifest_sha256, parent.data_version, parent.run_id) == (
        sft.sha256,
        sft.data_version,
        sft.manifest.run_id,
    )
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("rl_checkpoint"))
        assert event is not None and event.asset_materialization is not None
        tags, metadata = event.asset_materialization.tags or {}, event.asset_materialization.metadata
        assert tags["dagster/input_data_version/sft_checkpoint"] == sft.data_version
        assert tags["dagster/data_version"] == rl.data_version
        assert metadata["manifest_sha256"].value == rl.sha256


def test_lineage_reaches_the_data_sets(chain: tuple[dict[str, Any], dict[str, str]], root: Path) -> None:
    answer, environment = chain
    command = [sys.executable, "-m", "aquarat_core.cli", "lineage", "rl_checkpoint"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=True).stdout
    ancestors = ("sft_checkpoint", "mid_checkpoint", "base_checkpoint", "tokenizer")
    for name in (*ancestors, "aqua_dataset", "chat_datasets", "pretrain_text"):
        assert name in out and answer["assets"][name]["manifest_sha256"][:8] in out, name


def test_metrics_are_in_the_artifact_and_in_an_offline_wandb_run(
    chain: tuple[dict[str, Any], dict[str, str]],
) -> None:
    answer, _ = chain
    rl = ArtifactStore.open(answer["store"]).get(answer["assets"]["rl_checkpoint"]["manifest_sha256"])
    rows = [json.loads(line) for line in rl.record("metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(41))
    assert rows[0]["eval/accuracy"] == rl.manifest.metrics["held_out_accuracy_before"]
    rewards = [row["rl/mean_reward"] for row in rows[1:]]
    assert rewards[-1] == rl.manifest.metrics["reward_mean_last"]
    assert sum(rewards[-15:]) > sum(rewards[:15])
    assert rl.manifest.wandb is not None and rl.manifest.wandb["mode"] == "offline"
    assert any(f.path.endswith(f"run-{rl.manifest.wandb['run_id']}.wandb") for f in rl.manifest.records)


def test_the_paired_test_can_be_computed_again_from_the_records(chain: tuple[dict[str, Any], dict[str, str]]) -> None:
    from aquarat_core.evaluation.records import read_records

    answer, _ = chain
    store = ArtifactStore.open(answer["store"])
    right = {}
    for stage in ("sft", "rl"):
        report = store.get(answer["assets"][f"{stage}_eval_report"]["manifest_sha256"])
        records = read_records(report.path("questions.parquet"))
        right[stage] = {r.id: r.correct for r in records if r.evaluation == "aqua/greedy"}
    only_rl = sum(ok and not right["sft"][q] for q, ok in right["rl"].items())
    only_sft = sum(ok and not right["rl"][q] for q, ok in right["sft"].items())
    assert mcnemar_exact(only_sft, only_rl) == pytest.approx(answer["eval"]["mcnemar_p"])
