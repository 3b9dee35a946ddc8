"""Fields that were renamed are read under their old names for one release, with a warning that names the new one."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from aquarat_core.config import ConfigError, RLConfig, TokenizerConfig, load_profile, override, validate
from aquarat_core.config.fields import same_config, with_current_names
from aquarat_core.config.profile import Profile

DOC_CAP = "the field doc_cap is now called max_chars_per_document"
ROUNDS = "the field refill_rounds is now called dynamic_sampling_rounds"


def test_a_profile_may_use_old_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: demo\ntokenizer: {doc_cap: 77}\nrl_checkpoint: {refill_rounds: 2}\n")
    with pytest.warns(FutureWarning) as caught:
        profile = load_profile(str(tmp_path / "mine.yaml"))
    said = [str(one.message) for one in caught]
    assert len(said) == 2 and said[0].startswith(DOC_CAP) and said[1].startswith(ROUNDS)
    assert profile.tokenizer.max_chars_per_document == 77
    assert profile.rl_checkpoint.dynamic_sampling_rounds == 2


def test_an_old_name_is_merged_over_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text("extends: demo\ntokenizer: {max_chars_per_document: 5}\n")
    (tmp_path / "old.yaml").write_text("extends: new.yaml\ntokenizer: {doc_cap: 6}\n")
    with pytest.warns(FutureWarning, match=DOC_CAP):
        profile = load_profile(str(tmp_path / "old.yaml"))
    assert profile.tokenizer.max_chars_per_document == 6
    with pytest.warns(FutureWarning, match=DOC_CAP):
        assert load_profile("demo", {"tokenizer": {"doc_cap": 7}}).tokenizer.max_chars_per_document == 7
    with pytest.warns(FutureWarning, match=DOC_CAP):
        assert override(profile, {"tokenizer": {"doc_cap": 8}}).tokenizer.max_chars_per_document == 8


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"doc_cap: unknown field.*max_chars_per_document"):
        validate(TokenizerConfig, {"doc_cap": 5, "max_chars_per_document": 6}, "a section")


def test_a_wrong_value_is_refused_under_its_new_name() -> None:
    with (
        pytest.warns(FutureWarning, match=ROUNDS),
        pytest.raises(ConfigError, match=r"dynamic_sampling_rounds.*\(got 9\)"),
    ):
        validate(RLConfig, {"refill_rounds": 9}, "a section")


def test_the_old_config_of_an_artifact_is_the_same_without_a_warning() -> None:
    section = TokenizerConfig()
    recorded = section.model_dump(mode="json")
    recorded["doc_cap"] = recorded.pop("max_chars_per_document")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_config(section, recorded)
        assert not same_config(section, recorded | {"doc_cap": 5})
        assert same_config(None, {}) and not same_config(None, recorded)


def test_names_are_found_at_any_depth_and_others_are_kept() -> None:
    given = {"name": "x", "tokenizer": {"doc_cap": 5}, "no_such": {"doc_cap": 5}}
    found = with_current_names(Profile, given, warn=False)
    assert found == {"name": "x", "tokenizer": {"max_chars_per_document": 5}, "no_such": {"doc_cap": 5}}
    assert given["tokenizer"] == {"doc_cap": 5}


def test_a_field_that_did_not_exist_yet_had_its_default() -> None:
    section = RLConfig()
    recorded = section.model_dump(mode="json")
    del recorded["validation_split"]
    assert same_config(section, recorded)
    assert not same_config(section.model_copy(update={"validation_split": "holdout"}), recorded)
    assert not same_config(section, recorded | {"a_field_that_is_gone": 1})
