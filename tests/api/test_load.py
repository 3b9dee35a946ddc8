"""Checkpoints from Python: by every name that they have, and what is refused with a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import aquarat_core as aq
from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.exchange.huggingface import write_huggingface
from aquarat_core.exchange.nanochat import write_nanochat
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.settings import REPO_ROOT
from tests.factories import guesser, random_ids, random_model, reading_tokenizer, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the guesser."""
    made = tmp_path_factory.mktemp("guesser")
    (made / "checkpoint").mkdir()
    reading_tokenizer().save(made / "tokenizer.json")
    save_checkpoint(made / "checkpoint", guesser(), made / "tokenizer.json")
    return made / "checkpoint"


def publish(uri: str, folder: Path, asset: str, kind: str = "checkpoint") -> Artifact:
    return ArtifactStore.open(uri).publish(
        asset=asset, kind=kind, directory=folder, config={}, profile="test", run_id="r", parents=[], metrics={},
        code=CodeVersion(version="1" * 64), seeds={},
    )  # fmt: skip


@pytest.fixture
def artifact(store_uri: str, folder: Path) -> Artifact:
    """The guesser as the latest `sft_checkpoint`; there is a `tokenizer` too."""
    publish(store_uri, folder, "tokenizer", "tokenizer")
    return publish(store_uri, folder, "sft_checkpoint")


def test_an_artifact_has_several_names(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "sft_checkpoint",
        artifact.sha256[:8],
        artifact.uri,
        "aquarat://sft_checkpoint",
        f"aquarat://{artifact.sha256}/",
    )
    models = [aq.load(name) for name in names]
    monkeypatch.setenv("AQUARAT_STORE", "memory://another")
    models.append(aq.load("sft_checkpoint", store=artifact.store.uri))
    for model in models:
        assert model.artifact is not None and model.artifact.sha256 == artifact.sha256
        assert model.config == guesser().config and model.tokenizer.sha256 == reading_tokenizer().sha256
    assert repr(models[0]).startswith(f"<Model sft_checkpoint {artifact.sha256[:12]}: depth 2, width 32, ")


@pytest.mark.parametrize("given", [str, Path])
def test_a_folder_needs_no_store(folder: Path, store_uri: str, given: type) -> None:
    model = aq.load(given(folder))
    assert model.artifact is None and model.config == guesser().config
    assert not Path(store_uri.removeprefix("file://")).exists()


@pytest.mark.parametrize("write", [write_huggingface, write_nanochat])
def test_a_folder_of_another_program_computes_the_same(write, folder: Path, tmp_path: Path) -> None:
    theirs = random_model(400, sequence_len=64, qk_scale=1.0)
    write(tmp_path / "other", theirs, tokenizer(), *((8,) if write is write_huggingface else ()))
    model = aq.load(tmp_path / "other", dtype="float32")
    ids = random_ids(1, 20, vocab_size=400)
    with torch.no_grad():
        torch.testing.assert_close(model.transformer(ids.to(model.device)).cpu(), theirs(ids), atol=1e-4, rtol=0)
    assert model.tokenizer.encode("12 + 30") == tokenizer().encode("12 + 30") and model.origin["form"]


def test_a_release_and_a_repository_of_the_hub_are_folders_too(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release").mkdir()
    write_huggingface(tmp_path / "release", random_model(400, sequence_len=64), tokenizer(), 8)
    artifact = publish(store_uri, tmp_path / "release", "model_release", "release")
    model = aq.load("model_release")
    assert model.artifact is not None and model.artifact.sha256 == artifact.sha256
    monkeypatch.setattr("aquarat_core.exchange.hub.download", {"hf://owner/name@v1": tmp_path / "release"}.__getitem__)
    assert aq.load("hf://owner/name@v1").logprobs("12 + 30") == model.logprobs("12 + 30")


def test_a_folder_beside_is_found_where_the_store_has_no_such_name(
    folder: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert aq.load("checkpoint").artifact is None


def test_the_weights_are_computed_in_the_type_that_is_asked_for(folder: Path) -> None:
    for dtype in ("bfloat16", torch.float32):
        model = aq.load(folder, device="cpu", dtype=dtype)
        assert model.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
        assert {m.weight.dtype for m in model.transformer.modules() if isinstance(m, torch.nn.Linear)} == {model.dtype}
        assert str(model.device) == "cpu"


def test_a_release_answers_with_as_many_tokens_as_it_says(folder: Path, store_uri: str, tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    write_huggingface(tmp_path / "release", random_model(400, sequence_len=64), tokenizer(), 8)
    publish(store_uri, tmp_path / "release", "model_release", "release")
    for model in (aq.load(tmp_path / "release"), aq.load("model_release")):
        assert model.max_chat_tokens == 8
        answer = model.chat("12 + 30", temperature=1.0, special_tokens=True)
        assert answer == model.chat("12 + 30", 8, 1.0, special_tokens=True)
        assert answer != model.chat("12 + 30", 30, 1.0, special_tokens=True)
    assert aq.load(folder).max_chat_tokens == 512
    generation = tmp_path / "release" / "generation_config.json"
    generation.write_text('{"max_new_tokens": null}')
    assert aq.load(tmp_path / "release").max_chat_tokens == 512
    for damaged, complaint in (
        ("{", "generation_config.json is not valid JSON"),
        ("[]", "generation_config.json is not a JSON object"),
        *((f'{{"max_new_tokens": {n}}}', "must be a whole number of at least 1") for n in ("0", "1.5", "true", '"8"')),
    ):
        generation.write_text(damaged)
        with pytest.raises(aq.UserError, match=complaint):
            aq.load(tmp_path / "release")


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        (None, "the name to load is None, but must be that of an asset"),
        (5, "the name to load is of type int, but must be that of an asset"),
        (b"sft_checkpoint", "the name to load is of type bytes"),
        ("", "the name to load is empty"),
        (" ", "the name to load is empty"),
        ("x" * 5000, r"^x{80}\.\.\. cannot be opened: File name too long$"),
        ("a" * 5000, r"^a{80}\.\.\. cannot be opened: File name too long$"),
        ("./" + "x" * 5000, r"^x{80}\.\.\. cannot be opened: File name too long$"),
        (Path("x" * 5000), r"^x{80}\.\.\. cannot be opened: File name too long$"),
        ("~no_such_user/x", "there is no such user"),
        ("\ud800", "is not Unicode text"),
        ("./a\0b", "NUL character|is not a folder"),
    ],
)
def test_what_is_no_name_is_one_sentence(artifact: Artifact, what: Any, complaint: str) -> None:
    with pytest.raises(aq.UserError, match=complaint) as caught:
        aq.load(what)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("what", "options", "complaint"),
    [
        ("tokenizer", {}, "tokenizer is a tokenizer: only checkpoints and releases have a model"),
        (
            "sft_chekpoint",
            {},
            r"no asset or manifest 'sft_chekpoint'; it has .*: did you mean 'sft_checkpoint'\?",
        ),
        ("gs://bucket/somewhere", {}, "is no artifact's URI"),
        ("./nowhere", {}, "nowhere is not a folder"),
        ("sft_checkpoint", {"device": "tpu"}, "'tpu' is no device|tpu is not supported: use cpu or cuda"),
        ("sft_checkpoint", {"device": "cuda:99"}, "torch sees no GPU cuda:99 here"),
        ("sft_checkpoint", {"dtype": "int8"}, "int8 is no type to compute in: use float32 or bfloat16"),
        ("sft_checkpoint", {"device": 1.5}, "1.5 is no device: use cpu or cuda"),
        ("sft_checkpoint", {"store": 5}, "store is of type int, but must be text"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(artifact: Artifact, what: str, options: dict, complaint: str) -> None:
    with pytest.raises(aq.UserError, match=complaint):
        aq.load(what, **options)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, aquarat_core as aq; dir(aq); aq.UserError; "
        "heavy = {'torch', 'numpy', 'pyarrow', 'pydantic', 'dagster'} & set(sys.modules); assert not heavy, heavy; "
        "aq.load; assert 'torch' in sys.modules and 'dagster' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO_ROOT)


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        aq.lod  # noqa: B018
    assert {"load", "Model", "__version__"} <= set(dir(aq))
