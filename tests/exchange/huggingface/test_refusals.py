"""What could become another model when it is read, or cannot be written, is refused by name and leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aquarat_core.errors import UsageError, UserError, WeightsError
from aquarat_core.exchange.huggingface import read_huggingface, write_huggingface
from aquarat_core.text.tokenizer import TokenizerError
from tests.exchange.huggingface.examples import NATIVE, PLAIN, REMOTE
from tests.factories import random_model, tokenizer

V = tokenizer().vocab_size


@pytest.fixture(params=["classic", "everything with taps"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return written(tmp_path / "release", request.param)


def written(folder: Path, name: str) -> Path:
    write_huggingface(folder, random_model(V, **(NATIVE | REMOTE)[name]), tokenizer(), 8)
    return folder


def change(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def drop(folder: Path, name: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != name}))


def refused(folder: Path, kind: type[UserError] = WeightsError) -> str:
    with pytest.raises(kind) as error:
        read_huggingface(folder)
    return str(error.value)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"model_type": "llama"}, "'llama'; understood are nanochat (transformers NanoChat) and aquarat"),
        ({"model_type": ["nanochat"]}, "understood are"),
        ({"model_type": None}, "the model_type is None"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "is of type 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is of type 'linear'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, "rope_theta is 'x'"),
        ({"rope_parameters": [1]}, "rope_parameters is not an object"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true, but only false"),
        ({"is_causal": False}, "is_causal is false"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"per_layer_config": {"0": {}}, "surprise": 1}, "per_layer_config, surprise. Delete them"),
        ({"intermediate_size": 100}, "intermediate_size is 100"),
        ({"rms_norm_eps": 0.01}, "rms_norm_eps is 0.01"),
        ({"final_logit_softcapping": None}, "final_logit_softcapping"),
        ({"final_logit_softcapping": -1}, "not a positive number"),
        ({"vocab_size": V + 64}, f"has {V + 64} ids, but its tokenizer has {V}"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 10**6}, "config.json"),
        ({"num_attention_heads": 7}, "num_attention_heads 7"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"hidden_size": 10**9, "intermediate_size": 4 * 10**9}, "config.json"),
        ({"max_position_embeddings": 10**12}, "config.json"),
        ({"hidden_size": 64 * 10**10, "intermediate_size": 256 * 10**10, "num_attention_heads": 10**10, "head_dim": 64,
          "num_key_value_heads": 10**10}, "hidden_size is 640000000000, but only models up to 65,536 are read"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1" + 39 * "0" + "..., not a positive number"),
        ({"final_logit_softcapping": 10**400}, "final_logit_softcapping is 1000"),
        ({"final_logit_softcapping": 1e-320}, "only values from 0.001 to 1e+09 are read"),
        ({"final_logit_softcapping": 1e308}, "final_logit_softcapping is 1e+308"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "rope_theta is 1000"),
        ({"rope_parameters": {"rope_theta": 1e308}}, "rope_theta is 1e+308"),
        ({"rope_parameters": {"rope_theta": 1e-320}}, "rope_theta is 1e-320"),
        ({"rope_theta": 10**400, "rope_parameters": None}, "rope_theta is 1000"),
    ],
)  # fmt: skip
def test_configs_that_mean_another_function(folder: Path, entries: dict[str, Any], said: str) -> None:
    change(folder, **entries)
    assert said in refused(folder, UserError)


def test_code_in_a_nanochat_folder_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = written(tmp_path, "classic")
    (folder / "modeling_aquarat.py").write_text("raise SystemExit('run')")
    change(folder, auto_map={"AutoModelForCausalLM": "modeling_aquarat.Other"})
    assert "auto_map names code in the folder" in refused(folder)


def test_code_in_a_release_is_not_run(tmp_path: Path) -> None:
    folder = written(tmp_path, "everything with smear")
    for path in folder.glob("*.py"):
        path.write_text("raise SystemExit('run')")
    assert read_huggingface(folder)[2] == "aquarat for transformers"


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"layer_types": ["full_attention"] * 5}, "the first hybrid"),
        ({"layer_types": ["hybrid"] * 5}, "must have 5 of full_attention, sliding_attention"),
        ({"layer_types": "hybrid"}, "must have 5"),
        ({"layer_types": [["hybrid"]] * 5}, "must have 5"),
        ({"layer_types": ["hybrid"] + ["sliding_attention"] * 4}, "the last of them full_attention"),
        ({"sliding_window": None}, "lacks sliding_window"),
        ({"sliding_window": 1}, "sliding_window is 1"),
        ({"smear": 1}, "smear must be true or false"),
        ({"smear": True}, "smear and embedding_taps"),
        ({"embedding_taps": -1}, "embedding_taps is -1"),
        ({"qk_scale": 0}, "qk_scale is 0"),
        ({"qk_scale": 10**400}, "qk_scale is 1000"),
        ({"qk_scale": 1e308}, "qk_scale is 1e+308, but only values"),
        ({"head_dim": 16}, "head_dim 16"),
    ],
)
def test_options_that_are_none(tmp_path: Path, entries: dict[str, Any], said: str) -> None:
    folder = written(tmp_path, "everything with taps")
    change(folder, **entries)
    assert said in refused(folder, UserError)


def test_a_release_has_to_say_everything(tmp_path: Path) -> None:
    folder = written(tmp_path, "everything with taps")
    for name in ("vocab_size", "hidden_size", "qk_scale", "embedding_taps", "rms_norm_eps", "max_position_embeddings"):
        before = (folder / "config.json").read_bytes()
        drop(folder, name)
        assert f"lacks {name}" in refused(folder)
        (folder / "config.json").write_bytes(before)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", '{"a":' + "[" * 100_000])
def test_a_config_that_is_none(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json is not" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refused(folder, UserError)


def edited(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_weights_that_do_not_fit(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    name = "model.layers.1.mlp.fc1.weight"
    for edit, said in (
        (lambda t: t.pop(name), f"lacks {name}"),
        (lambda t: t.update(more=torch.zeros(1)), "also has more"),
        (lambda t: t.update({name: t[name][:-1].clone()}), f"{name} is ["),
        (lambda t: t.update({name: t[name].to(torch.int8)}), "is stored as I8"),
        (lambda t: t.update({name: t[name].double()}), "is stored as F64"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(V + 1, 3)}), "lm_head.weight is ["),
        (lambda t: t[name][2, 3].fill_(float("nan")), f"{name} has numbers that are NaN or infinite"),
        (lambda t: t[name][2, 3].fill_(float("-inf")), f"{name} has numbers that are NaN or infinite"),
    ):
        (folder / "model.safetensors").write_bytes(whole)
        assert said in refused(edited(folder, edit))
    for size in (0, 7, 100, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        assert "model.safetensors is damaged" in refused(folder)


def test_shards_that_are_not_there_or_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aquarat_core.artifacts.weights.SHARD_BYTES", 20_000)
    folder = written(tmp_path, "classic")
    (folder / "model.safetensors").write_bytes(b"")
    assert "an index of other shards" in refused(folder)
    (folder / "model.safetensors").unlink()
    sorted(folder.glob("*.safetensors"))[1].unlink()
    assert "lacks a file that its index names" in refused(folder)


# --- writing --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"the model has 100 ids"):
        write_huggingface(tmp_path / "a", random_model(100, **PLAIN), tokenizer(), 8)
    with pytest.raises(UsageError, match="max_new_tokens is 0"):
        write_huggingface(tmp_path / "a", random_model(V, **PLAIN), tokenizer(), 0)
    one = random_model(V, **PLAIN, window_pattern="SL", short_window=1)
    with pytest.raises(WeightsError, match="short_window is 1"):
        write_huggingface(tmp_path / "a", one, tokenizer(), 8)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/README.md").write_text("mine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aquarat_core.artifacts.weights._write", full)
    with pytest.raises(OSError, match="No space"):
        write_huggingface(tmp_path / "b", random_model(V, **PLAIN), tokenizer(), 8)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["README.md"]


def test_a_folder_with_a_model_is_not_written_over(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match="already has config"):
        write_huggingface(folder, random_model(V, **PLAIN), tokenizer(), 8)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_tokenizer_that_cannot_be_said_there(tmp_path: Path) -> None:
    from aquarat_core.text.tokenizer import Tokenizer

    odd = Tokenizer(r"\w{1,4}+|.", tokenizer().merges, tokenizer().special_ids)
    with pytest.raises(TokenizerError, match="possessive range"):
        write_huggingface(tmp_path, random_model(V, **PLAIN), odd, 8)
    assert not list(tmp_path.iterdir())


def test_the_reason_names_the_options(tmp_path: Path) -> None:
    def reason(name: str) -> str:
        model = random_model(V, **(NATIVE | REMOTE)[name])
        return write_huggingface(tmp_path / name, model, tokenizer(), 8).reason

    assert reason("classic") == (
        "transformers' own NanoChat class computes this model exactly, so the folder carries no code."
    )
    assert reason("qk_scale") == (
        "transformers' NanoChat class has no qk_scale 1.2, so the folder carries the model's class, and loading it "
        "needs trust_remote_code=True."
    )
    said = reason("everything with taps")
    for option in ("qk_scale 1.2, embedding_taps 2, layers that see 16 tokens (window_pattern SSL)", " or backout,"):
        assert option in said


def test_the_carried_files_are_ours_byte_for_byte(folder: Path) -> None:
    import aquarat_core.exchange.huggingface.remote as remote

    here = Path(remote.__file__).parent
    carried = sorted(path.name for path in folder.glob("*.py"))
    remote_code = json.loads((folder / "config.json").read_text())["model_type"] == "aquarat"
    assert carried == (["configuration_aquarat.py", "modeling_aquarat.py"] if remote_code else [])
    for name in carried:
        text = (folder / name).read_text()
        assert text == (here / name).read_text()
        assert "import aquarat" not in text and "from aquarat" not in text
