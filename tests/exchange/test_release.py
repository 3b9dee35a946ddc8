"""Releases: a card without invented numbers, the same bytes each time, and clear words where something is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aquarat_core.artifacts.backends import open_backend
from aquarat_core.cli import main
from aquarat_core.errors import UsageError
from aquarat_core.exchange.facts import read_facts
from aquarat_core.exchange.places import to_bucket
from aquarat_core.settings import REPO_ROOT
from tests.evaluation.shop import Shop

Run = Callable[..., tuple[int, str, str]]
WEIGHTS = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]\d+)?(?![\w])")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AQUARAT_CACHE", str(folder / "cache"))
        made = Shop(folder)
        arguments = ["--protocol", "greedy,letters", "--max-new-tokens", "8", "--out", str(folder / "report")]
        assert main(["eval", "sft_checkpoint", *arguments, "--store", made.store.uri]) == 0
        yield made


@pytest.fixture
def run(shop: Shop, capsys: pytest.CaptureFixture[str]) -> Run:
    def ask(*arguments: str) -> tuple[int, str, str]:
        code = main(["release", *arguments, "--store", shop.store.uri])
        return code, *capsys.readouterr()

    return ask


def numbers(value: Any) -> Iterator[float]:
    """All numbers at any depth."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def forms(value: float) -> set[str]:
    """How a card may write a number."""
    return {f"{value:,}", f"{100 * value:.1f}", f"{value:.3g}", f"{value:.2e}", f"{value:,.0f}", f"{value:.4f}"}


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_release_is_complete_and_the_same_each_time(run: Run, shop: Shop, tmp_path: Path) -> None:
    for name in ("one", "two"):
        code, said, _ = run("sft_checkpoint", "--to", str(tmp_path / name), "--report", str(shop.folder / "report"))
        assert code == 0 and said.endswith(f"released to {tmp_path / name}\n")
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert files.keys() >= WEIGHTS | {"README.md", "release.json"}
    facts = read_facts(tmp_path / "one" / "release.json")
    assert facts.checkpoint.data_version == facts.root.data_version == shop.sft.data_version
    assert [one.asset for one in facts.lineage] == ["aqua_dataset", "sft_checkpoint"]


def test_every_number_in_the_card_is_in_an_artifact(run: Run, shop: Shop, tmp_path: Path) -> None:
    run("sft_checkpoint", "--to", str(tmp_path / "out"), "--report", str(shop.folder / "report"))
    card = (tmp_path / "out" / "README.md").read_text()
    report = json.loads((shop.folder / "report" / "report.json").read_text())
    results = front_matter(card)["model-index"][0]["results"]
    metrics = [metric for result in results for metric in result["metrics"]]
    assert [m["value"] for m in metrics] == [e["figures"]["accuracy"] for e in report["evaluations"]]
    lower = [round(e["figures"]["lo"], 6) for e in report["evaluations"]]
    assert [m["args"]["interval_95"][0] for m in metrics] == lower
    manifests = [json.loads(a.manifest.to_bytes()) for a in (shop.sft, shop.aqua)]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    known = {form for value in numbers([report, *manifests, config]) for form in forms(value)}
    weights = sum(f.size for f in shop.sft.manifest.files if f.path.endswith(".safetensors"))
    text = re.sub(r"```.*?```|`[^`]*`", "", card.split("---\n", 2)[2], flags=re.DOTALL)
    text = re.sub(r"\b[0-9a-f]{12}\b|\d{4}-\d\d-\d\d|\(\d+ x\)", "", text)
    parameters = next(n for n in NUMBER.findall(text) if int(n.replace(",", "")) > 1000)
    assert 0 <= weights - 4 * int(parameters.replace(",", "")) < 5_000
    strange = {n for n in NUMBER.findall(text) if n.lstrip("+-") not in known} - {parameters, "12", "95", "5.24"}
    assert not strange


def test_the_examples_of_the_card_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sft_checkpoint", "--to", str(tmp_path / "path/to/this/folder"), "--without-report")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    card = (tmp_path / "path/to/this/folder/README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(examples) == 2
    said = []
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example], capture_output=True, text=True, check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO_ROOT), "AQUARAT_STORE": "memory://none"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1]


def test_a_checkpoint_for_nanochat(run: Run, tmp_path: Path) -> None:
    code, _, error = run("sft_checkpoint", "--to", str(tmp_path / "out"), "--form", "nanochat")
    assert code == 2 and "nanochat cannot represent this model" in error and "qk_scale" in error
    assert not (tmp_path / "out").exists()


def test_a_release_in_the_store_is_asked_like_its_checkpoint(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = shop.new_folder()
    main(["release", "sft_checkpoint", "--to", str(made), "--without-report", "--store", shop.store.uri])
    shop.publish("model_release", "release", made, (shop.sft,))
    capsys.readouterr()
    answers = []
    for name in ("sft_checkpoint", "model_release"):
        assert main(["ask", name, "Say 5", "--max-new-tokens", "8", "--store", shop.store.uri, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] and answers[1]["manifest_sha256"] == shop.sft.sha256


def test_an_imported_release_stays_in_its_family(
    run: Run, shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sft_checkpoint", "--to", str(tmp_path / "first"), "--without-report")
    assert main(["import", str(tmp_path / "first"), "--name", "back", "--store", shop.store.uri]) == 0
    capsys.readouterr()
    assert run("back", "--to", str(tmp_path / "second"), "--without-report")[0] == 0
    first, second = (read_facts(tmp_path / name / "release.json") for name in ("first", "second"))
    assert second.root == first.root and second.lineage[: len(first.lineage)] == first.lineage
    assert second.checkpoint.asset == "back"
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]
    card = (tmp_path / "second/README.md").read_text()
    assert f"a release of sft_checkpoint {shop.sft.data_version[:12]}" in card and "# back, imported from first" in card
    assert "license of the weights is not known here" in card and "mainly on word problems" not in card
    assert front_matter(card).keys().isdisjoint({"license", "language"})
    run("back", "--to", str(tmp_path / "third"), "--without-report", "--license", "mit")
    assert front_matter((tmp_path / "third/README.md").read_text())["license"] == "mit"


def test_a_folder_behind_a_link_is_filled(run: Run, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert run("sft_checkpoint", "--to", str(tmp_path / "link"), "--without-report")[0] == 0
    assert (tmp_path / "real/config.json").is_file() and (tmp_path / "link").is_symlink()


def test_the_newest_report_of_the_store_is_shown(run: Run, shop: Shop, tmp_path: Path) -> None:
    code, _, error = run("sft_checkpoint", "--to", str(tmp_path / "none"))
    assert code == 2 and "there is no report about sft_checkpoint" in error and "--without-report" in error
    assert not (tmp_path / "none").exists()
    made = shop.new_folder()
    for name in ("report.json", "questions.parquet"):
        (made / name).write_bytes((shop.folder / "report" / name).read_bytes())
    shop.publish("sft_eval_report", "report", made, (shop.sft, shop.aqua))
    code, _, _ = run("sft_checkpoint", "--to", str(tmp_path / "out"))
    assert code == 0 and "model-index" in front_matter((tmp_path / "out" / "README.md").read_text())


def test_a_report_about_another_checkpoint_is_refused(run: Run, shop: Shop, tmp_path: Path) -> None:
    other = shop.new_folder()
    for entry in shop.sft.manifest.files:
        (other / entry.path).write_bytes(shop.sft.path(entry.path).read_bytes())
    (other / "note.txt").write_text("another version")
    made = shop.publish("mid_checkpoint", "checkpoint", other, (shop.aqua,), validation_task="aqua")
    code, _, error = run(made.sha256, "--to", str(tmp_path / "out"), "--report", str(shop.folder / "report"))
    assert code == 2 and "the report is about sft_checkpoint" in error and not (tmp_path / "out").exists()


def test_a_release_without_a_report_says_so(run: Run, tmp_path: Path) -> None:
    code, _, _ = run("sft_checkpoint", "--to", str(tmp_path / "out"), "--without-report", "--title", "A try",
                     "--license", "apache-2.0")  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert code == 0 and "released without an evaluation" in card and "# A try\n" in card
    found = front_matter(card)
    assert found["license"] == "apache-2.0" and "model-index" not in found


def test_a_bucket_gets_the_release_and_keeps_nothing_else(run: Run, tmp_path: Path) -> None:
    run("sft_checkpoint", "--to", str(tmp_path / "out"), "--without-report")
    place = f"memory://{tmp_path.name}"
    for _ in range(2):  # the second time nothing is new
        to_bucket(tmp_path / "out", place)
    backend = open_backend(place)
    assert set(backend.keys("")) == {path.name for path in (tmp_path / "out").iterdir()}
    backend.write("other.bin", b"x")
    with pytest.raises(UsageError, match=r"holds other files \(other.bin\)"):
        to_bucket(tmp_path / "out", place)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("aqua_dataset", "--to", "out"), "aqua_dataset is a dataset: only a checkpoint can be released"),
        (("sft_checkpoint", "--to", "."), "is not an empty folder"),
        (("sft_checkpoint", "--to", ""), "is not an empty folder"),
        (("sft_checkpoint", "--to", "x" * 5000), "cannot be a folder"),
        (("sft_checkpoint", "--to", "something/in/it", "--without-report"), "is a file, not a folder"),
        (("sft_checkpoint", "--to", "memory://x"), "a release is written to a folder, gs://bucket/folder"),
        (("sft_checkpoint", "--to", "hf:/a/b"), "write hf://"),
        (("sft_checkpoint", "--to", "out", "--form", "nanochat", "--title", "x"), "--title is for the card"),
        (("sft_checkpoint", "--to", "out", "--without-report", "--license", "a: [b"), "license"),
        (("sft_checkpoint", "--to", "out", "--without-report", "--title", "a\nb"), "title"),
        (("sft_checkpoint", "--to", "out", "--report", "."), "has no report.json"),
        (("sft_checkpoint", "--to", "out", "--tag", "v1"), "are for hf:// alone"),
        (("sft_checkpoint", "--to", "hf://a/b", "--form", "nanochat"), "to a folder or a bucket"),
        (("sft_checkpoint", "--to", "hf://a", "--without-report"), "hf://owner/name"),
        (("sft_checkpoint", "--to", "out", "--report", "r", "--without-report"), "contradict each other"),
        (("stf_checkpoint", "--to", "out"), "no asset or manifest 'stf_checkpoint'"),
    ],
)
def test_what_cannot_be_released_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").write_text("x")
    code, _, error = run(*arguments)
    assert code == 2 and reason in error
    assert {path.name for path in tmp_path.iterdir()} == {"something"}
