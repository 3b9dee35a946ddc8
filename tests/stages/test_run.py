"""The stage runner as a process: what it publishes, and how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.artifacts import ArtifactStore, JobDir
from aquarat_core.stages.base import StageContext
from aquarat_core.tasks.aqua.files import read_questions
from tests.patience import limit
from tests.stages.conftest import Bench

AQUA = {"n_train": 30, "n_validation": 10, "n_test": 10, "seed": 7}


def start(bench: Bench, config: Any, attempt: int, root: Path, stage: str = "aqua_dataset", **changes: Any):
    job = bench.store.job("run-1", stage, attempt)
    spec = bench.spec(stage, config).model_dump(mode="json") | {"attempt": attempt} | changes
    assert job.create_json("spec.json", spec)
    done = subprocess.run(
        [sys.executable, "-m", "aquarat_core.stages.run", f"{job.uri}/spec.json"],
        env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=limit(120),
    )  # fmt: skip
    return done, job.read_json("result.json")


def test_success_publishes_and_says_what(bench: Bench, root: Path) -> None:
    done, result = start(bench, AQUA, 1, root)
    assert done.returncode == 0, done.stderr
    artifact = bench.store.latest("aqua_dataset")
    assert result.pop("seconds") > 0
    assert result.pop("metrics")["rows_train"] == 30
    assert result == {
        "ok": True,
        "manifest_sha256": artifact.sha256,
        "data_version": artifact.data_version,
        "uri": artifact.uri,
    }
    assert (artifact.manifest.run_id, artifact.manifest.profile) == ("run-1", "unit")
    assert artifact.manifest.seeds == {"seed": 7} and artifact.manifest.parents == ()
    assert len(read_questions(artifact.path("train.parquet"))) == 30

    # The same spec again: other timings and so another manifest, but the same content.
    done, again = start(bench, AQUA, 2, root)
    assert done.returncode == 0 and again["data_version"] == artifact.data_version


@pytest.mark.parametrize(
    ("config", "attempt", "message"),
    [
        ({"families": ["algebra"]}, 3, "unknown problem families algebra: choose from arithmetic"),
        ({"n_rows": 5}, 4, "n_rows: unknown field; known here: calculator_calls, families"),
        ({"max_level": 9}, 5, "max_level: Input should be less than or equal to 3 (got 9)"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    bench: Bench, root: Path, config: dict[str, Any], attempt: int, message: str
) -> None:
    before = bench.store.latest("aqua_dataset")
    done, result = start(bench, config, attempt, root)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not result["ok"] and result["error"]["user"] and message in result["error"]["message"]
    after = bench.store.latest("aqua_dataset")
    assert (before and before.sha256) == (after and after.sha256)


def test_a_missing_input_is_the_users_to_mend(bench: Bench, root: Path) -> None:
    parent = {"asset": "pretrain_text", "manifest_sha256": "0" * 64, "data_version": "0" * 64, "run_id": "gone"}
    done, result = start(bench, {}, 1, root, stage="tokenizer", inputs={"pretrain_text": parent})
    assert (done.returncode, result["error"]["type"]) == (2, "ArtifactError")
    assert "is AQUARAT_STORE the store that it was published to?" in done.stderr


def test_a_bug_is_exit_code_1_with_its_traceback(bench: Bench, root: Path) -> None:
    done, result = start(bench, {"vocab_size": 300}, 2, root, stage="tokenizer")  # without its inputs: KeyError
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "KeyError" in done.stderr
    assert not result["ok"] and not result["error"]["user"] and result["error"]["type"] == "KeyError"


def test_a_spec_uri_that_is_none_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the URI of a job"):
        JobDir.at(f"file://{tmp_path}/spec")
    assert ArtifactStore.open(f"file://{tmp_path}/s").latest("aqua_dataset") is None


def test_progress_is_bounded_but_ends_with_the_last_message(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []
    ctx = StageContext(None, None, {}, tmp_path, tmp_path, send=sent.append)
    for done in range(1, 1001):
        ctx.progress(done, 1000, **{"train/loss": 1.0 / done})
    assert len(sent) < 10
    assert sent[-1] == {
        "aquarat": "progress", "done": 1000, "total": 1000, "unit": "steps", "metrics": {"train/loss": 0.001},
    }  # fmt: skip
    other = StageContext(None, None, {}, tmp_path, tmp_path, rank=1, send=sent.append)
    other.progress(1, 1)
    assert sent[-1]["done"] == 1000


def test_an_attempt_that_another_has_taken_over_publishes_nothing(bench: Bench, root: Path) -> None:
    before = bench.store.latest("aqua_dataset")
    bench.store.job("run-1", "aqua_dataset", 40).create_json("superseded.json", {"by": 41})
    done, result = start(bench, {**AQUA, "seed": 11}, 40, root)
    assert done.returncode == 1 and result["error"]["type"] == "Superseded"
    assert "attempt 41 has taken this step over" in result["error"]["message"]
    after = bench.store.latest("aqua_dataset")
    assert (before and before.sha256) == (after and after.sha256)
