"""Profiles as files: what they may hold, where they are found, and what is refused before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.config import ConfigError, load_profile, profile_names, strict_yaml
from aquarat_core.config.strict_yaml import YamlError
from aquarat_pipeline.hosts.inventory import InventoryError, read_inventory

HEAD = "extends: demo\nname: mine\ndescription: Of a test.\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


def profile(folder: Path, text: str, name: str = "mine.yaml") -> str:
    (folder / name).write_text(HEAD + text)
    return str(folder / name)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_that_is_shipped_can_be_used(name: str) -> None:
    assert load_profile(name).name == name


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    twice = profile(tmp_path, "rl_checkpoint: {steps: 7}\nsft_checkpoint: {steps: 3}\nrl_checkpoint: {limit: 9}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml, line 6, column 1: 'rl_checkpoint' is given twice"):
        load_profile(twice)
    inner = profile(tmp_path, "rl_checkpoint:\n  steps: 7\n  steps: 8\n")
    with pytest.raises(ConfigError, match="line 6, column 3: 'steps' is given twice"):
        load_profile(inner)
    (tmp_path / "hosts.yaml").write_text("hosts:\n  - {name: a, address: x, gpus: 1, gpus: 8}\n")
    with pytest.raises(InventoryError, match=r"hosts.yaml, line 2, column 36: 'gpus' is given twice"):
        read_inventory(tmp_path)


def test_the_profile_that_a_file_extends_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "parent.yaml").write_text(HEAD + "rl_checkpoint: {steps: 7}\n")
    (tmp_path / "deep/child.yaml").write_text("extends: ../parent.yaml\nname: child\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_profile(str(tmp_path / "deep/child.yaml")).rl_checkpoint.steps == 7
    assert load_profile("../deep/child.yaml").name == "child"
    (tmp_path / "deep/lost.yaml").write_text("extends: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}/deep/nowhere.yaml)")):
        load_profile("../deep/lost.yaml")
    (tmp_path / "parent.yaml").write_text("extends: deep/child.yaml\n")
    with pytest.raises(ConfigError, match="extends itself through"):
        load_profile("../deep/child.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: [1]\n", r"extends must be one profile's name or file, not \[1\]"),
        (f"extends: {'é' * 500}\n", "unknown profile 'é+': choose one of"),
        ("[1, 2]\n", "must be a mapping of stages to fields"),
        ("1: 2\n", "must be a mapping of stages to fields"),
        ("", "must be a mapping of stages to fields"),
        ("a: b: c\n", r"mine.yaml, line 1, column 5: "),
        ("\tx: 1\n", r"mine.yaml, line 1"),
        ("x: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("? [1, 2]\n: 3\n", "a list or a mapping cannot be a key"),
        ("x: &x {<<: *x}\n", r"line 1: \*x repeats another value"),
        ("x: " + "[" * 60 + "]" * 60 + "\n", "nested more than 50 deep"),
        ("x: [" + "1," * 30_000 + "]\n", "more than 20,000 values"),
        ("x: " + "y" * 300_000 + "\n", "longer than 256 KiB"),
        ("x: \x00\n", "mine.yaml"),
        ("y: 1\nx: " + "1:" * 60_000 + "1\n", r"mine.yaml, line 2: a value of 120,001 characters that may be a number"),
        ("x: [-1" + ":59" * 2_000 + ".5]\n", r"line 1: a value of 6,004 characters .* in quotes, without a tag"),
        ("x: !!int '1" + ":1" * 3_000 + "'\n", "line 1: a value of 6,001 characters"),
        ("x: 0x" + "f" * 5_000 + "\n", "line 1: a value of 5,002 characters"),
    ],
)
def test_what_is_no_profile_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_profile(str(tmp_path / "mine.yaml"))


def test_aliases_that_grow_are_refused_before_they_do(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB)
    with pytest.raises(YamlError, match=r"bomb.yaml, line 2: \*a repeats another value: write the value again"):
        strict_yaml.load(tmp_path / "bomb.yaml")


def test_a_long_text_in_quotes_is_a_text(tmp_path: Path) -> None:
    short, long = "1:" * 2_047 + "x", "1:" * 60_000
    (tmp_path / "x.yaml").write_text(f"plain: {short}\na: '{long}'\nb: |\n  {long}\n")
    assert strict_yaml.load(tmp_path / "x.yaml") == {"plain": short, "a": long, "b": long + "\n"}


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(YamlError, match=r"x.yaml is not UTF-8 text"):
        strict_yaml.load(tmp_path / "x.yaml")


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize(
    "field",
    [
        "sft_checkpoint: {{optim: {{lr_scale: {}}}}}",
        "rl_checkpoint: {{temperature: {}}}",
        "base_checkpoint: {{model: {{softcap: {}}}}}",
        "rl_checkpoint: {{objective: {{clip_high: {}}}}}",
        "base_checkpoint: {{target_flops: {}}}",
    ],
)
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, field: str, value: str) -> None:
    with pytest.raises(ConfigError, match="finite number"):
        load_profile(profile(tmp_path, field.format(value) + "\n"))


CHATS = [{"name": "identity"}, {"name": "drills"}]
PAGES = {"name": "pages", "train": {"hub": "owner/pages"}, "format": "documents"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl_checkpoint": {"max_new_tokens": 256}}, "rl_checkpoint.max_new_tokens 256 leaves no room"),
        ({"eval_report": {"max_new_tokens": 300}}, "eval_report.max_new_tokens 300 leaves no room for a question"),
        ({"rl_checkpoint": {"min_first_reward": 0.9, "max_first_reward": 0.5}}, "no first batch could pass"),
        ({"rl_checkpoint": {"limit": 8}}, "prompts_per_step 16 exceeds the 8 training questions"),
        ({"aqua_dataset": {"n_train": 10}}, "prompts_per_step 16 exceeds the 10 training questions"),
        ({"rl_checkpoint": {"curriculum": {"hard": 0.9, "easy": 0.1}}}, "hard 0.9 is above easy 0.1"),
        ({"rl_checkpoint": {"reward": {"overlong_tokens": 49}}}, "overlong_tokens 49 is more than max_new_tokens 48"),
        ({"rl_checkpoint": {"reward": {"exact_after": 0.3}}}, "the kind 'answer' is exact in all steps"),
        ({"rl_checkpoint": {"steps": 10, "reward": {"kind": "probability", "exact_after": 0.01}}},
         "reward.exact_after 0.01 would do nothing, because it is 0 of 10 steps: take reward.kind 'answer' instead"),
        ({"rl_checkpoint": {"steps": 10, "reward": {"kind": "probability", "exact_after": 0.99}}},
         "reward.exact_after 0.99 would do nothing, because it is 10 of 10 steps: set it to null, or change"),
        ({"sft_checkpoint": {"optim": {"warmdown": 0.0, "warmdown_shape": "cosine"}}},
         "sft_checkpoint.optim: warmdown_shape 'cosine' would do nothing, because the rates do not fall"),
        ({"chat_datasets": {"source": "hub", "sources": [*CHATS, {"name": "arc"}]},
          "mid_checkpoint": {"mixture": [{"name": "arc", "answer_only": True}]}},
         "mid_checkpoint.mixture: answer_only would do nothing for arc, whose rows have no worked solutions"),
        ({"chat_datasets": {"sources": [*CHATS, {**PAGES, "n_validation": 5}]}},
         "pages: n_validation 5 would do nothing"),
        ({"chat_datasets": {"sources": [*CHATS, {**PAGES, "n_test": 5}]}},
         "pages: n_test 5 would do nothing without a test split: give its location under test"),
        ({"chat_datasets": {"sources": [*CHATS, {**PAGES, "name": "task"}]}},
         "'task' stands for the profile's own task: choose another name"),
        ({"aqua_dataset": {"n_holdout": True}}, "aqua_dataset.n_holdout: true and false are not numbers (got True)"),
        ({"aqua_dataset": {"max_rationale_chars": True}}, "max_rationale_chars: true and false are not numbers"),
        ({"rl_checkpoint": {"temperature": False}}, "rl_checkpoint.temperature: true and false are not numbers"),
        ({"mid_checkpoint": {"mixture": [{"name": "task", "answers_only": True}]}},
         "mid_checkpoint.mixture.0.answers_only: unknown field; did you mean answer_only? known here: answer_only,"),
        ({"pretrain_text": {"train": {"hub": "a/b", "splitt": "x"}}},
         "splitt: unknown field; did you mean split? known here: first_files, hub, split, subset"),
        ({"mid_checkpoint": {"mixture": 5}}, "mid_checkpoint.mixture: should be a list (got 5)"),
        ({"mid_checkpoint": {"mixture": ["task"]}},
         "mid_checkpoint.mixture.0: should be a mapping of fields to values (got 'task')"),
        ({"rl_checkpoint": {"steps": 10_000_001}}, "rl_checkpoint.steps: Input should be less than or equal to 100000"),
        ({"sft_checkpoint": {"steps": 10**30}}, "sft_checkpoint.steps: Input should be less than or equal to 10000000"),
        ({"aqua_dataset": {"n_train": 10**13}}, "aqua_dataset.n_train: Input should be less than or equal to"),
        ({"pretrain_text": {"added_documents": 5}}, "source 'synthetic' generates all of it: set n_documents instead"),
        ({"sft_checkpoint": {"mixture": []}}, "sft_checkpoint.mixture is empty"),
        ({"mid_checkpoint": {"mixture": [{"name": "drills", "permutations": 2}]}}, "permutations of drills are"),
        ({"mid_checkpoint": {"mixture": [{"name": "drills", "answer_only": True}]}}, "drills has no answers to show"),
        ({"chat_datasets": {"sources": [{"name": "identity"}, {"name": "drills", "n_train": 0}]}},
         "mixture needs train rows of drills, but none are kept: set n_train of the source drills"),
        ({"chat_datasets": {"sources": [*CHATS, PAGES]}, "sft_checkpoint": {"mixture": [{"name": "pages"}]}},
         "sft_checkpoint.mixture names pages, which has documents, but with loss_on 'assistant' only what"),
        ({"chat_datasets": {"sources": [*CHATS, PAGES]},
          "mid_checkpoint": {"mixture": [{"name": "pages"}], "loss_on": "assistant"}}, "or set mid_checkpoint.loss_on"),
        ({"chat_datasets": {"sources": [*CHATS, PAGES]},
          "mid_checkpoint": {"mixture": [{"name": "pages", "permutations": 2}]}}, "permutations of pages are"),
        ({"chat_datasets": {"sources": [*CHATS, PAGES]}, "mid_checkpoint": {"validation_task": "pages"}},
         "mid_checkpoint.validation_task names 'pages'"),
        ({"chat_datasets": {"sources": [{"name": "drills", "format": "documents"}]}},
         "drills is the name of a built-in"),
        ({"chat_datasets": {"sources": [*CHATS, {**PAGES, "format": "auto", "column": "body"}]}},
         "pages: column is only read of documents"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_before_anything_starts(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_profile("demo", changes)


def test_documents_are_named_in_mid_training_and_where_sft_learns_everything() -> None:
    changes = {
        "chat_datasets": {"sources": [*CHATS, PAGES | {"column": "body"}]},
        "mid_checkpoint": {"mixture": [{"name": "pages", "limit": 5, "repeat": 2}]},
        "sft_checkpoint": {"mixture": [{"name": "pages"}], "loss_on": "all"},
    }
    profile = load_profile("demo", changes)
    assert profile.chat_datasets.sources[2].kept("train") is None
    assert profile.section("mid_checkpoint").mixture[0].limit == 5
