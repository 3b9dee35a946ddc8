"""The pipeline bench: where the demo's wall time goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from benchmarks.pipeline import results

Publish = Callable[[str, float], Artifact]


@pytest.fixture
def publish(store_uri: str, tmp_path: Path) -> Publish:
    """Publishes an artifact whose stage worked for so many seconds."""

    def make(asset: str, seconds: float) -> Artifact:
        folder = tmp_path / asset
        folder.mkdir()
        (folder / "file").write_text(asset)
        code = CodeVersion(version="0" * 64)
        return ArtifactStore.open(store_uri).publish(
            asset=asset, kind="dataset", directory=folder, config={}, profile="demo", code=code, parents=(),
            metrics={"seconds": seconds}, seeds={}, run_id="run",
        )  # fmt: skip

    return make


def test_the_parts_add_up_to_the_wall_time(publish: Publish) -> None:
    artifacts = [publish("tokenizer", 6.0), publish("sft_checkpoint", 30.0)]
    assets = {"tokenizer": {"seconds": 11.0}, "sft_checkpoint": {"seconds": 40.0}}
    answer = {"profile": "demo", "assets": assets, "peak_memory_mb": 7000}
    found = {r.name.removeprefix("demo/"): r for r in results(60.0, answer, artifacts)}
    assert {name: r.value for name, r in found.items()} == {
        "wall_time": 60.0,
        "tokenizer": 11.0,
        "sft_checkpoint": 40.0,
        "stages": 36.0,
        "outside_stages": 24.0,
        "stage_processes": 15.0,
        "dagster": 9.0,
        "peak_memory": 7000 * 1024 * 1024 / 1e9,
    }
    assert found["dagster"].ratio == 0.15
    assert (found["wall_time"].goal, found["wall_time"].met) == ("≤ 600 s", True)
    assert (found["peak_memory"].goal, found["peak_memory"].met) == ("≤ 6 GB", False)


def test_the_goals_are_the_demo_s(publish: Publish) -> None:
    answer = {"profile": "tiny", "assets": {}, "peak_memory_mb": 1}
    found = results(700.0, answer, [publish("tokenizer", 6.0)])
    assert found[0].name == "tiny/wall_time"
    assert {r.goal for r in found} == {None}
