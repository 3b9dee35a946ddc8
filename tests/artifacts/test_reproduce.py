"""Running a stage again from its manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.cli import main
from aquarat_core.config import load_profile
from aquarat_core.maintenance.reproduce import reproduce, weights_distance
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.registry import STAGES
from tests.tasks.test_own_code import GOOD

from .conftest import Publish

pytestmark = pytest.mark.slow

STAGE = STAGES["aqua_dataset"]
CONFIG = load_profile("demo").aqua_dataset.model_copy(update={"n_train": 40, "n_validation": 10, "n_test": 10})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A data set as its stage really makes it: reproduced once from a manifest that only says how."""
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "source").mkdir()
    (folder / "source" / "nothing").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AQUARAT_CACHE", str(folder / "cache"))
        recipe = ArtifactStore.open(f"file://{folder}/recipe").publish(
            asset="aqua_dataset", kind="dataset", directory=folder / "source", config=CONFIG.model_dump(mode="json"),
            profile="demo", code=CodeVersion(version=code_version(STAGE, CONFIG)), parents=[], metrics={}, seeds={},
            run_id="r",
        )  # fmt: skip
        found = reproduce(recipe, folder / "out")
        assert found.bitwise and not found.ok
        notes = {f.path: f.note for f in found.files}
        assert notes["nothing"] == "not there again" and notes["train.parquet"] == "only there again"
        return found.again


def test_the_same_comes_out_again_bit_for_bit(
    made: Artifact, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert (
        main(["reproduce", "aqua_dataset", "--store", made.store.uri, "--json", "--keep", str(tmp_path / "kept")]) == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts["ok"] and facts["bitwise"] and facts["metrics"] == {}
    assert {path: f["identical"] for path, f in facts["files"].items()} == {f.path: True for f in made.manifest.files}
    kept = ArtifactStore.open(f"file://{tmp_path}/kept/store").latest("aqua_dataset")
    assert kept.data_version == made.data_version
    assert facts["manifest_sha256"] == [made.sha256, kept.sha256]


def test_what_comes_out_different_is_named(
    made: Artifact, publish: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    files = {f.path: made.path(f.path).read_bytes() for f in made.manifest.files}
    m = made.manifest
    publish(store, "aqua_dataset", files | {"test.parquet": b"forged"}, config=m.config, code=m.code,
            metrics=m.metrics | {"rows_test": 11})  # fmt: skip
    assert main(["reproduce", "aqua_dataset", "--store", store.uri]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("was NOT reproduced, bit for bit (same hardware, libraries and code)")
    rows = [line.split() for line in out.splitlines()]
    assert ["file", "test.parquet", "differs"] in rows and ["file", "train.parquet", "identical"] in rows
    assert ["metric", "rows_test", "11", "then,", "10", "now"] in rows


def test_other_code_is_refused_unless_wanted(
    made: Artifact, publish: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    files = {f.path: made.path(f.path).read_bytes() for f in made.manifest.files}
    commit = "0123456789" * 4
    other = CodeVersion(version="f" * 64, commit=commit, dirty=True)
    publish(store, "aqua_dataset", files, config=made.manifest.config, code=other, metrics=made.manifest.metrics)
    assert main(["reproduce", "aqua_dataset", "--store", store.uri]) == 2
    said = capsys.readouterr().err
    here = code_version(STAGE, CONFIG)[:12]
    assert f"was made by code version ffffffffffff, but here it is {here}: check out {commit}" in said
    assert "had uncommitted changes, or add --anyway" in said
    assert main(["reproduce", "aqua_dataset", "--store", store.uri, "--anyway"]) == 0
    assert "was reproduced, within 0.01" in capsys.readouterr().out


def test_code_that_a_manifest_holds_runs_only_when_it_was_asked_for(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever may write to a store could otherwise run code wherever somebody reproduces an artifact."""
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    ran = tmp_path / "ran"
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"q": "{i}?", "a": {i}}}\n' for i in range(9)))
    (tmp_path / "near.py").write_text(f"open({str(ran)!r}, 'w').close()\n{GOOD}")
    (tmp_path / "mine.yaml").write_text(
        "extends: demo\ntask: {name: near, module: near.py, train: rows.jsonl, n_validation: 2, n_test: 2}\n"
        "chat_datasets: {sources: [{name: identity, n_train: 5, n_test: 5}, {name: drills, n_train: 5, n_test: 5}]}\n"
    )
    profile = load_profile(str(tmp_path / "mine.yaml"))
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    for name in ("chat_datasets", "rl_checkpoint"):
        section = profile.section(name)
        code = CodeVersion(version=code_version(STAGES[name], section))
        publish(store, name, {"nothing": b""}, config=section.model_dump(mode="json"), code=code)
        assert main(["reproduce", name, "--store", store.uri, "--anyway"]) == 2
        said = capsys.readouterr().err
        assert "Python code that its manifest contains, for the task near (near.py, SHA-256 " in said
        assert "add --run-code if you trust it" in said
    assert not ran.exists()
    command = ["reproduce", "chat_datasets", "--store", store.uri, "--run-code", "--keep", str(tmp_path / "kept")]
    assert main(command) == 1, "the files are not those of the recipe"
    assert ran.exists()
    again = ArtifactStore.open(f"file://{tmp_path}/kept/store").latest("chat_datasets")
    assert again is not None and again.path("near.train.parquet").is_file()


def test_the_distance_of_weights(tmp_path: Path) -> None:
    a = {"x": torch.tensor([3.0, 4.0]), "y": torch.ones(2, 2)}
    save_file(a, tmp_path / "a")
    shutil.copy(tmp_path / "a", tmp_path / "same")
    save_file(a | {"x": torch.tensor([3.0, 4.5])}, tmp_path / "near")
    save_file(a | {"x": torch.tensor([3.0, float("nan")])}, tmp_path / "nan")
    save_file({"x": a["x"]}, tmp_path / "fewer")
    save_file(a | {"x": torch.ones(3)}, tmp_path / "shape")
    found = {n: weights_distance(tmp_path / "a", tmp_path / n) for n in ("same", "near", "nan", "fewer", "shape")}
    infinite = float("inf")
    assert found == {"same": 0.0, "near": pytest.approx(0.1), "nan": infinite, "fewer": infinite, "shape": infinite}
