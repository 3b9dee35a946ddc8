"""What a profile says of tasks: names that must be there, and what the stages are given of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from aquarat_core.config import ConfigError, Profile, load_profile, override
from aquarat_core.config.task_use import TASK_SOURCES, WITH_OPTIONS
from aquarat_core.stages.registry import EVAL_REPORTS, STAGES, used_stages
from aquarat_core.tasks.registry import DATASETS, KINDS, TASKS

OWN: dict[str, Any] = {"kind": "multiple_choice", "train": "rows.jsonl"}
HUB = {"source": "hub", "sources": [{"name": "gsm8k", "n_validation": 100}, {"name": "identity"}, {"name": "drills"}]}


def load(folder: Path, **fields: Any) -> Profile:
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "mine.yaml").write_text(yaml.safe_dump({"extends": "demo", **fields}))
    return load_profile(str(folder / "mine.yaml"))


def test_the_tables_of_tasks_agree() -> None:
    assert {*TASK_SOURCES, *DATASETS.values()} == TASKS.keys()
    assert TASKS.keys() >= WITH_OPTIONS
    assert {"module", "multiple_choice", "numeric", "short_text"} <= KINDS.keys()


def test_a_task_defined_in_place_is_the_task_of_all_stages(tmp_path: Path) -> None:
    profile = load(tmp_path, task={"name": "birds", **OWN})
    assert profile.task == "birds"
    assert [e.name for e in profile.section("sft_checkpoint").mixture] == ["birds"]
    assert [t.name for t in profile.section("rl_checkpoint").tasks] == ["birds"]
    assert profile.section("eval_report").task == profile.section("sft_checkpoint").validation_task == "birds"
    assert profile.section("rl_checkpoint").definitions["birds"].kind == "multiple_choice"
    assert profile.section("chat_datasets").tasks["birds"].train.partition("#")[0] == str(tmp_path / "rows.jsonl")
    assert profile.section("tokenizer").tasks == ("birds",)


def test_what_no_stage_reads_is_not_made(tmp_path: Path) -> None:
    assert used_stages(load_profile("demo")) == tuple(name for name in STAGES if name != "eval_bundle")
    profile = load(tmp_path, task=OWN)
    assert used_stages(profile) == tuple(name for name in STAGES if name not in ("aqua_dataset", "eval_bundle"))
    rl = STAGES["rl_checkpoint"]
    assert rl.needs(rl.config(profile)) == ("sft_checkpoint", "chat_datasets")
    assert rl.needs(rl.config(load_profile("demo"))) == ("sft_checkpoint", "aqua_dataset")


def test_the_questions_of_core_are_read_where_it_is_measured() -> None:
    profile = load_profile("demo", {"eval_report": {"core": {"of": ["base", "rl"], "limit": 500}}})
    assert used_stages(profile) == tuple(STAGES)
    readers = [name for name, stage in STAGES.items() if "eval_bundle" in stage.needs(stage.config(profile))]
    assert readers == ["base_eval_report", "rl_eval_report"]
    everyone = load_profile("demo", {"eval_report": {"core": {}}})
    readers = [name for name, stage in STAGES.items() if "eval_bundle" in stage.needs(stage.config(everyone))]
    assert readers == list(EVAL_REPORTS)
    with pytest.raises(ConfigError, match=r"core\.of names 'bas', and the phases are base, mid, sft, rl"):
        load_profile("demo", {"eval_report": {"core": {"of": ["bas"]}}})


def test_a_mixture_of_tasks_reads_the_data_sets_of_both(tmp_path: Path) -> None:
    profile = load(tmp_path, chat_datasets=HUB, rl_checkpoint={"tasks": [{"name": "task"}, {"name": "gsm8k"}]})
    rl = STAGES["rl_checkpoint"]
    assert [t.name for t in rl.config(profile).tasks] == ["aqua", "gsm8k"]
    assert rl.needs(rl.config(profile)) == rl.inputs
    assert set(rl.tasks(rl.config(profile))) == {TASKS["aqua"], TASKS["gsm8k"]}


def test_a_profile_is_the_same_read_again(tmp_path: Path) -> None:
    profile = load(tmp_path, task={"name": "birds", **OWN}, tasks={"sums": {"kind": "numeric", "train": "rows.jsonl"}})
    assert Profile.model_validate_json(profile.to_json()) == profile
    assert override(profile, {"rl_checkpoint": {"steps": 3}}).section("rl_checkpoint").definitions.keys() == {"birds"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "gsm8k"}, "names the task 'gsm8k': add {name: gsm8k} to chat_datasets.sources"),
        ({"task": "aqau"}, "task names 'aqau': did you mean 'aqua'?"),
        ({"rl_checkpoint": {"tasks": [{"name": "brids"}]}, "tasks": {"birds": OWN}}, "did you mean 'birds'?"),
        ({"sft_checkpoint": {"mixture": [{"name": "identitty"}]}}, "sft_checkpoint.mixture names 'identitty': did you"),
        ({"eval_report": {"task": "identity"}}, "eval_report.task names 'identity'"),
        ({"rl_checkpoint": {"tasks": [{"name": "gsm8k"}]}, "chat_datasets": {**HUB, "sources": [
            {"name": "gsm8k"}, {"name": "identity"}, {"name": "drills"}]}}, "needs validation rows of gsm8k"),
        ({"rl_checkpoint": {"tasks": [{"name": "task"}, {"name": "aqua"}]}}, "rl_checkpoint.tasks names a task twice"),
        ({"rl_checkpoint": {"tasks": []}}, "tasks must name one task or several different ones"),
        ({"task": {"name": "birds", **OWN}, "tasks": {"birds": OWN}}, "there are two tasks called 'birds'"),
        ({"tasks": {"birds": {"name": "fish", **OWN}}}, "tasks.birds has the name 'fish'"),
        ({"tasks": {"aqua": OWN}}, "cannot be called 'aqua'"),
        ({"tasks": {"task": OWN}}, "cannot be called 'task'"),
        ({"tasks": {"core": OWN}}, "cannot be called 'core'"),
        ({"tasks": {"identity": OWN}}, "'identity' is both a source of chat_datasets and a task of the profile"),
        ({"tasks": {"Birds!": OWN}}, "should match pattern"),
        ({"task": {**OWN, "columns": {"stem": "question"}}}, "columns: stem unknown for kind 'multiple_choice'"),
        ({"task": {**OWN, "tolerance": 0.1}}, "tolerance belongs to kind 'numeric'"),
        ({"task": {"train": "rows.jsonl"}}, "a task needs a kind"),
        ({"task": {"kind": "multiple_choice"}}, "train: missing"),
        ({"task": {**OWN, "n_validation": 0}}, "needs validation rows of own, but none are kept"),
        ({"task": {**OWN, "kind": "numeric"}, "sft_checkpoint": {"mixture": [{"name": "task", "permutations": 2}]}},
         "permutations of own are not possible"),
        ({"rl_checkpoint": {"tasks": [{"name": "arc"}], "distillation": {"teacher": "average"}},
          "chat_datasets": {**HUB, "sources": [{"name": "arc", "n_validation": 9}, *HUB["sources"][1:]]}},
         "needs worked solutions for its teacher, and arc has none"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_way_out(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, **fields)
    assert said in str(caught.value)


def test_what_is_filled_in_cannot_be_said_otherwise(tmp_path: Path) -> None:
    """A run's override of a filled-in task would be ignored without a word."""
    profile = load(tmp_path, task={"name": "birds", **OWN})
    for stage in ("chat_datasets", "sft_checkpoint", "rl_checkpoint", "eval_report"):
        section = profile.section(stage).model_dump(mode="json")
        assert override(profile, {stage: section}).section(stage) == profile.section(stage)
        field = "tasks" if stage == "chat_datasets" else "definitions"
        for changed in (
            {"birds": {**section[field]["birds"], "kind": "short_text"}},
            {"gulls": section[field]["birds"]},
        ):
            with pytest.raises(ConfigError, match=rf"{stage}\.{field}\.\w+ differs from `tasks\.\w+` of the profile"):
                override(profile, {stage: {**section, field: changed}})


@pytest.mark.parametrize(
    "fields",
    [
        {"task": None}, {"task": []}, {"task": 5}, {"task": ""}, {"task": {}}, {"tasks": []}, {"tasks": "birds"},
        {"tasks": {"birds": None}}, {"tasks": {5: OWN}}, {"tasks": {"birds": []}}, {"task": {**OWN, "name": None}},
        {"task": {**OWN, "name": ["a"]}}, {"task": {**OWN, "name": "x" * 41}}, {"task": {**OWN, "train": None}},
        {"task": {**OWN, "train": "none.jsonl"}}, {"task": {**OWN, "train": {"hub": "x"}}},
        {"task": {**OWN, "columns": ["question"]}}, {"task": {**OWN, "columns": {"question": None}}},
        {"task": {**OWN, "n_train": 0}}, {"task": {**OWN, "n_validation": -1}}, {"task": {**OWN, "n_test": 0}},
        {"task": {**OWN, "kind": "choice"}}, {"task": {**OWN, "first_option": 2}},
        {"task": {**OWN, "kind": "numeric", "first_option": 1}}, {"task": {**OWN, "kind": "numeric", "tolerance": 1}},
        {"task": {**OWN, "module": "mine.py"}}, {"task": {"module": "", "train": "rows.jsonl"}},
        {"task": {"module": "a\0b", "train": "rows.jsonl"}}, {"task": {**OWN, "code": "x = 1"}},
        {"task": {"module": ".", "train": "rows.jsonl"}}, {"task": {"module": ["x"], "train": "rows.jsonl"}},
        {"task": {"module": "rows.jsonl", "train": "rows.jsonl", "columns": {"question": "q"}}},
        {"rl_checkpoint": {"tasks": [{"name": "task", "weight": 0}]}},
        {"rl_checkpoint": {"tasks": [{"name": "task", "weight": float("inf")}]}},
        {"rl_checkpoint": {"tasks": "task"}}, {"rl_checkpoint": {"tasks": [{"weight": 1}]}},
        {"tasks": {"birds": OWN},
         "rl_checkpoint": {"tasks": [{"name": "task"}, {"name": "birds"}], "prompts_per_step": 1}},
        {"sft_checkpoint": {"mixture": []}}, {"sft_checkpoint": {"validation_task": "none"}},
    ],
)  # fmt: skip
def test_a_wrong_profile_is_the_users_to_mend(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, **fields)
    assert "mine.yaml" in str(caught.value)


REAL: dict[str, Any] = {"aqua_dataset": {"source": "hub", "n_holdout": 500}}


def test_models_are_chosen_by_a_holdout_where_there_is_one(tmp_path: Path) -> None:
    by_holdout = {"validation_split": "holdout"}
    both = {"sft_checkpoint": by_holdout, "rl_checkpoint": {**by_holdout}}
    profile = load(tmp_path, **REAL, **both)
    assert profile.section("rl_checkpoint").validation_split == "holdout"
    with pytest.raises(ConfigError, match=r"rl_checkpoint\.tasks needs .* set aqua_dataset\.n_holdout"):
        load(tmp_path, rl_checkpoint=by_holdout)
    with pytest.raises(ConfigError, match=r"sft_checkpoint\.validation_task needs .* set aqua_dataset\.n_holdout"):
        load(tmp_path, sft_checkpoint=by_holdout)
    other = load(tmp_path, task={"name": "birds", **OWN}, **both)
    assert other.section("rl_checkpoint").validation_split == "holdout", "tasks without one use their validation split"
    asked = load(tmp_path, **REAL, eval_report={"tasks": [{"split": "holdout"}]})
    assert [a.name for a in asked.section("eval_report").asked()] == ["aqua/greedy", "aqua@holdout/greedy"]
    with pytest.raises(ConfigError, match=r"eval_report\.tasks\[0\] needs .* set aqua_dataset\.n_holdout"):
        load(tmp_path, eval_report={"tasks": [{"split": "holdout"}]})
    with pytest.raises(ConfigError, match=r"the split 'holdout' of birds, which only aqua has: take 'validation'"):
        load(tmp_path, task={"name": "birds", **OWN}, eval_report={"split": "holdout"})


def test_only_published_rows_are_normalized_and_set_aside(tmp_path: Path) -> None:
    for fields in ({"n_holdout": 5}, {"rationales": "normalized"}, {"max_rationale_chars": 9}):
        with pytest.raises(ConfigError, match="are for published rows: set source to 'hub'"):
            load(tmp_path, aqua_dataset=fields)


def test_calls_of_published_rows_need_normalized_rationales(tmp_path: Path) -> None:
    hub = {"source": "hub", "calculator_calls": True}
    with pytest.raises(ConfigError, match="set rationales to 'normalized', or calculator_calls to false"):
        load(tmp_path, aqua_dataset=hub)
    assert load(tmp_path, aqua_dataset=hub | {"rationales": "normalized"}).section("aqua_dataset").calculator_calls
    assert load(tmp_path, aqua_dataset={"calculator_calls": True}).section("aqua_dataset").calculator_calls


def test_the_data_set_that_is_protected_is_an_input(tmp_path: Path) -> None:
    chats = {"mixture": [{"name": "identity"}, {"name": "drills"}], "decontaminate": ["task"]}
    profile = load(tmp_path, mid_checkpoint=chats)
    mid = STAGES["mid_checkpoint"]
    assert profile.section("mid_checkpoint").decontaminate == ("aqua",)
    assert mid.needs(mid.config(profile)) == ("base_checkpoint", "chat_datasets", "aqua_dataset")
    for stage in ("sft_checkpoint", "rl_checkpoint"):
        with pytest.raises(ConfigError, match=rf"{stage}\.decontaminate names 'aqau': did you mean 'aqua'"):
            load(tmp_path, **{stage: {"decontaminate": ["aqau"]}})
