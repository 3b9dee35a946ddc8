"""`aquarat import`: another program's checkpoint becomes an artifact that can be asked."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aquarat_core.artifacts import ArtifactStore, digest_file
from aquarat_core.cli import main
from aquarat_core.exchange.huggingface import write_huggingface
from aquarat_core.exchange.nanochat import load_nanochat
from aquarat_core.exchange.tokenizer_files import read_tokenizer
from aquarat_core.model.checkpoint import load_checkpoint
from aquarat_core.text.formats import save_hugging_face, save_tiktoken
from tests.exchange.test_golden import GOLDEN
from tests.exchange.test_nanochat import CONFIG, weights
from tests.factories import CPU, random_ids, random_model, tokenizer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 20 and 650 in nanochat's form, and the vocabulary in three forms."""
    made = tmp_path / "d2"
    made.mkdir()
    vocab_size = tokenizer().vocab_size
    for step in (20, 650):
        torch.save(weights(vocab_size=vocab_size), made / f"model_{step:06d}.pt")
        meta = {"step": step, "model_config": CONFIG | {"vocab_size": vocab_size}}
        (made / f"meta_{step:06d}.json").write_text(json.dumps(meta))
    tokenizer().save(made / "tokenizer.json")
    save_tiktoken(tokenizer(), made / "ranks.tiktoken")
    save_hugging_face(tokenizer(), made / "hf.json")
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([*map(str, arguments), "--store", f"file://{tmp_path}/store"])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("vocabulary", ["tokenizer.json", "ranks.tiktoken", "hf.json"])
def test_what_is_imported_is_the_model_and_can_be_asked(
    folder: Path, run: Run, tmp_path: Path, vocabulary: str
) -> None:
    code, said, _ = run("import", folder, "--tokenizer", folder / vocabulary, "--json")
    assert code == 0
    told = json.loads(said)
    assert (told["step"], told["form"], told["tokenizer"]) == (650, "nanochat of October 2025", vocabulary)
    artifact = ArtifactStore.open(f"file://{tmp_path}/store").resolve("nanochat_checkpoint")
    assert (artifact.sha256, artifact.manifest.kind) == (told["manifest_sha256"], "checkpoint")
    assert artifact.manifest.parents == ()
    origin = artifact.manifest.config["origin"]
    assert (origin["form"], origin["step"], origin["source"]) == ("nanochat of October 2025", 650, "d2")
    for kind, names in (("weights", ["model_000650.pt", "meta_000650.json"]), ("tokenizer", [vocabulary])):
        assert origin[kind] == {name: digest_file(folder / name).sha256 for name in names}
    assert str(tmp_path) not in artifact.manifest.to_bytes().decode()
    model, its_tokenizer = load_checkpoint(artifact.directory(), CPU, torch.float32)
    ids = torch.tensor([its_tokenizer.encode("What is 12 + 7?")])
    assert ids.tolist() == [list(tokenizer().encode("What is 12 + 7?"))]
    assert its_tokenizer.special_ids == tokenizer().special_ids
    torch.testing.assert_close(model(ids), load_nanochat(folder, 650)[0](ids), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["october_2025", "march_2026", "march_2026_odd_width"])
def test_an_answer_is_the_one_that_nanochat_gives(run: Run, name: str) -> None:
    code, said, _ = run("import", GOLDEN / name)
    assert code == 0 and "tokenizer from tokenizer.pkl, now in file://" in said
    question = json.loads((GOLDEN / "prompts.json").read_text())["chat"]
    code, said, _ = run("ask", "nanochat_checkpoint", question, "--max-new-tokens", "24", "--json")
    expected = read_tokenizer(GOLDEN / "tokenizer" / "tokenizer.pkl").decode(
        load_file(GOLDEN / name / "golden.safetensors")["greedy.chat"].tolist()
    )
    assert code == 0 and json.loads(said)["answers"] == [{"text": expected, "tokens": 24, "ended": False}]


def test_a_step_and_a_name_can_be_chosen(folder: Path, run: Run) -> None:
    code, said, _ = run("import", folder, "--step", 20, "--name", "old")
    assert code == 0 and said.startswith("old ")
    assert ": nanochat of October 2025, step 20, tokenizer from tokenizer.json, now in file://" in said


def test_a_checkpoint_of_our_own_is_imported_again(folder: Path, run: Run, tmp_path: Path) -> None:
    assert run("import", folder)[0] == 0
    store = ArtifactStore.open(f"file://{tmp_path}/store")
    first = store.resolve("nanochat_checkpoint")
    shutil.copytree(first.directory(), tmp_path / "pulled")
    code, said, _ = run("import", tmp_path / "pulled", "--json")
    assert code == 0 and json.loads(said)["form"] == "aquarat"
    again = store.resolve("imported_checkpoint")
    assert again.manifest.config["origin"]["weights"].keys() == {"config.json", "model.safetensors"}
    assert {f.path: f.sha256 for f in again.manifest.files} == {f.path: f.sha256 for f in first.manifest.files}


@pytest.mark.parametrize(
    ("config", "form", "name"),
    [
        ({"qk_scale": 1.0}, "transformers NanoChat", "transformers_checkpoint"),
        ({"embedding_taps": 2}, "aquarat for transformers", "imported_checkpoint"),
    ],
)
def test_a_folder_of_transformers_is_imported(
    run: Run, tmp_path: Path, config: dict[str, Any], form: str, name: str
) -> None:
    model = random_model(tokenizer().vocab_size, **config)
    write_huggingface(tmp_path / "released", model, tokenizer(), 16)
    (tmp_path / "released/other.safetensors").write_bytes(b"not read")
    code, said, _ = run("import", tmp_path / "released", "--json")
    assert code == 0 and (json.loads(said)["form"], json.loads(said)["step"]) == (form, None)
    artifact = ArtifactStore.open(f"file://{tmp_path}/store").resolve(name)
    origin = artifact.manifest.config["origin"]
    for kind, names in (("weights", ["config.json", "model.safetensors"]), ("tokenizer", ["tokenizer.json"])):
        assert origin[kind] == {name: digest_file(tmp_path / "released" / name).sha256 for name in names}
    read, its_tokenizer = load_checkpoint(artifact.directory(), CPU, torch.float32)
    ids = random_ids(1, 40, vocab_size=model.vocab_size)
    torch.testing.assert_close(read(ids), model(ids), atol=0, rtol=0)
    assert its_tokenizer.encode("12 eggs") == tokenizer().encode("12 eggs")


def test_the_config_is_part_of_what_was_imported(run: Run, tmp_path: Path) -> None:
    # Two models with equal weights that compute different functions.
    released = tmp_path / "released"
    write_huggingface(released, random_model(tokenizer().vocab_size, qk_scale=1.0), tokenizer(), 16)
    config = json.loads((released / "config.json").read_text())
    versions: list[str] = []
    for cap in (15.0, 20.0):
        (released / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": cap}))
        assert run("import", released)[0] == 0
        store = ArtifactStore.open(f"file://{tmp_path}/store")
        versions.append(store.resolve("transformers_checkpoint").manifest.code.version)
    assert versions[0] != versions[1]


def test_all_shards_and_their_index_are_recorded(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = tmp_path / "released"
    with monkeypatch.context() as small:
        small.setattr("aquarat_core.artifacts.weights.SHARD_BYTES", 20_000)
        write_huggingface(released, random_model(tokenizer().vocab_size, qk_scale=1.0), tokenizer(), 16)
    assert run("import", released)[0] == 0
    artifact = ArtifactStore.open(f"file://{tmp_path}/store").resolve("transformers_checkpoint")
    shards = {path.name for path in released.glob("model-*.safetensors")}
    expected = shards | {"config.json", "model.safetensors.index.json"}
    assert len(shards) > 1 and artifact.manifest.config["origin"]["weights"].keys() == expected


def test_a_repository_on_the_hub_is_downloaded_and_its_commit_recorded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int | None]] = []

    def download(uri: str, log: object, step: int | None) -> Path:
        asked.append((uri, step))
        return shutil.copytree(GOLDEN / "october_2025", tmp_path / "snapshots" / ("ab" * 20), dirs_exist_ok=True)

    monkeypatch.setattr("aquarat_core.exchange.hub.download", download)
    tokenizer_file = GOLDEN / "tokenizer" / "tokenizer.pkl"
    code, _, _ = run("import", "hf://owner/name@main", "--tokenizer", tokenizer_file)
    assert code == 0 and asked == [("hf://owner/name@main", None)]
    artifact = ArtifactStore.open(f"file://{tmp_path}/store").resolve("nanochat_checkpoint")
    assert artifact.manifest.config["origin"]["source"] == f"hf://owner/name@{'ab' * 20}"


def refused(run: Run, folder: Path, *more: object) -> str:
    code, said, error = run("import", folder, *more)
    assert (code, said) == (2, "") and "Traceback" not in error
    return error


def test_what_cannot_be_imported_is_said_and_leaves_nothing(folder: Path, run: Run, tmp_path: Path) -> None:
    assert "rl_checkpoint is the name of a stage" in refused(run, folder, "--name", "rl_checkpoint")
    assert "meta_000021.json" in refused(run, folder, "--step", 21)
    assert f"There is one in {folder}" in refused(run, tmp_path)
    assert "absent is not a folder" in refused(run, tmp_path / "absent")
    assert "xxx is not a folder" in refused(run, tmp_path / ("x" * 5000))
    (folder / "tokenizer.pkl").write_bytes(b"cos\nsystem\n(S'touch sprung'\ntR.")
    assert "it refers to os.system. Nothing in it was run" in refused(run, folder)
    (folder / "tokenizer.pkl").unlink()
    torch.save(weights(vocab_size=390), folder / "model_000700.pt")
    (folder / "meta_000700.json").write_text(json.dumps({"model_config": CONFIG | {"vocab_size": 390}}))
    assert "the model has 390 ids" in refused(run, folder)
    (folder / "meta_000700.json").write_text(json.dumps({"model_config": {"n_layer": 2}}))
    assert "lacks sequence_len, vocab_size, n_head, n_kv_head, n_embd" in refused(run, folder)
    (folder / "meta_000700.json").write_text("{}")
    assert "has no model_config" in refused(run, folder)
    (folder / "meta_000700.json").unlink()
    assert "meta_000700.json is missing" in refused(run, folder)
    assert not (tmp_path / "store" / "manifests").exists()


def test_a_folder_of_something_else_is_named(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for content, message in (
        ("{", "config.json is not valid JSON"),
        ("[]", "neither a model_type (Hugging Face) nor a model and a vocab_size (aquarat)"),
        ('{"model": {}, "vocab_size": 3}', "has no tokenizer.json"),
    ):
        config.write_text(content)
        assert message in refused(run, tmp_path)
    assert "neither can be chosen, so leave out --step\n" in refused(run, tmp_path, "--step", 3)
    said = refused(run, tmp_path, "--step", 3, "--tokenizer", tmp_path / "tokenizer.json")
    assert "leave out --step and --tokenizer\n" in said
    config.unlink()
    assert "there is no checkpoint in" in refused(run, tmp_path)


def test_a_checkpoint_without_a_tokenizer_is_refused(folder: Path, run: Run) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "ranks.tiktoken").rename(folder / "elsewhere")
    assert "there is no tokenizer in or beside" in refused(run, folder)


class Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    folder: Path, run: Run, tmp_path: Path, legacy: bool
) -> None:
    sprung, file = tmp_path / "sprung", folder / "model_000650.pt"
    state = weights() | {"more": Trap(sprung)}
    if legacy:
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file)
    said = refused(run, folder)
    assert "does not contain only tensors, so it is not loaded" in said
    assert ("it is not a complete zip archive" if legacy else "it contains code or objects besides tensors") in said
    assert "weights_only" not in said and "torch.load" not in said
    assert not sprung.exists()
