"""The whole chain on a bucket: every stage publishes there and reads its inputs from there, and all of it is sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import load_profile
from aquarat_core.maintenance.reproduce import reproduce
from aquarat_core.maintenance.verify import verify
from aquarat_core.stages.registry import used_stages
from tests.artifacts.emulator import BUCKET, emulator

DEMO = used_stages(load_profile("demo"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_demo_chain_runs_on_a_bucket(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text((root / "dagster_home/dagster.yaml").read_text())
    with emulator(tmp_path / "objects") as url:
        for name, value in {
            "DAGSTER_HOME": str(home),
            "STORAGE_EMULATOR_HOST": url,
            "AQUARAT_STORE": f"gs://{BUCKET}/team/aquarat",
            "AQUARAT_CACHE": str(tmp_path / "cache"),
            "AQUARAT_PROFILE": str(Path(__file__).with_name("bucket.yaml")),
            "WANDB_MODE": "offline",
        }.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-m", "aquarat_pipeline.demo"]
        out = subprocess.run(command, capture_output=True, text=True, cwd=root, env=os.environ)
        assert out.returncode == 0, out.stdout + out.stderr[-4000:]
        answer = json.loads(Path(json.loads(out.stdout.splitlines()[-1])["details"]).read_text())
        assert answer["store"] == f"gs://{BUCKET}/team/aquarat" and set(answer["assets"]) == set(DEMO)
        store = ArtifactStore.open(answer["store"])
        assert {a: store.latest(a).sha256 for a in store.assets()} == {
            name: facts["manifest_sha256"] for name, facts in answer["assets"].items()
        }
        found = verify(store)
        assert found.problems == () and found.artifacts == len(DEMO)

        # Rebuilt from its manifest alone, on the hardware that made it: bit for bit, and the bucket has nothing new.
        sft = store.latest("sft_checkpoint")
        before = list(store.backend.keys(""))
        again = reproduce(sft, tmp_path / "again")
        assert again.bitwise and again.ok and again.metrics == {}
        assert {f.path for f in again.files} == {"model.safetensors", "config.json", "tokenizer.json"}
        assert again.again.data_version == sft.data_version
        assert list(store.backend.keys("")) == before
