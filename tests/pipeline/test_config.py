"""Dagster config generated from the stages' pydantic sections."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from aquarat_core.config import ConfigError, Profile, load_profile
from aquarat_core.config.locations import HubRows
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.assets.config import config_schema, run_config_of

CONFIGURED = [name for name, stage in STAGES.items() if stage.section]


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("demo")


def received(profile: Profile, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """What an op with the stage's schema gets to see when a run gives it `given`."""
    seen: dict[str, Any] = {}

    @dg.op(config_schema=config_schema(STAGES[name].config(profile)))
    def probe(context: dg.OpExecutionContext) -> None:
        seen.update(context.op_config)

    @dg.job
    def probing() -> None:
        probe()

    assert probing.execute_in_process(run_config={"ops": {"probe": {"config": given}}}).success
    return seen


@pytest.mark.parametrize("name", CONFIGURED)
def test_without_overrides_a_stage_gets_the_profile(profile: Profile, name: str) -> None:
    assert received(profile, name, {}) == STAGES[name].config(profile).model_dump(mode="json")


def test_single_fields_are_overridden_at_any_depth(profile: Profile) -> None:
    given = {"steps": 7, "optim": {"grad_clip": None}, "launch": {"device": "cpu"}}
    expected = complete(profile, "sft_checkpoint")
    expected |= {"steps": 7, "optim": expected["optim"] | {"grad_clip": None}}
    expected["launch"] = expected["launch"] | {"device": "cpu"}
    assert received(profile, "sft_checkpoint", given) == expected


def test_an_old_name_in_a_runs_config_wins_over_the_default_of_the_new_one(profile: Profile) -> None:
    seen = received(profile, "rl_checkpoint", {"refill_rounds": 3})
    assert seen == complete(profile, "rl_checkpoint", refill_rounds=3)
    with pytest.warns(FutureWarning, match="refill_rounds is now called dynamic_sampling_rounds"):
        section = run_config_of(STAGES["rl_checkpoint"], profile, seen, {})
    assert section.dynamic_sampling_rounds == 3


def test_an_entry_of_a_list_gets_the_defaults_of_its_type(profile: Profile) -> None:
    mixture = received(profile, "sft_checkpoint", {"mixture": [{"name": "aqua", "repeat": 2}]})["mixture"]
    assert mixture == [{"name": "aqua", "repeat": 2, "skip": 0, "limit": None, "permutations": 1, "answer_only": False}]


def test_a_location_is_a_text_or_a_mapping(profile: Profile) -> None:
    for train in ("gs://bucket/texts/", {"hub": "owner/name", "split": "train"}):
        seen = received(profile, "pretrain_text", {"source": "files", "train": train, "validation": None})
        assert seen["train"] == train and seen["validation"] is None
        section = run_config_of(STAGES["pretrain_text"], profile, seen, {})
        assert section.train == (train if isinstance(train, str) else HubRows(hub="owner/name"))
    sources = [{"name": "mine", "train": "gs://bucket/chats.jsonl"}, {"name": "identity"}, {"name": "drills"}]
    seen = received(profile, "chat_datasets", {"sources": sources})
    assert run_config_of(STAGES["chat_datasets"], profile, seen, {}).sources[0].kept("train") is None
    with pytest.raises(ConfigError, match="the path is relative"):
        run_config_of(STAGES["pretrain_text"], profile, {"source": "files", "train": "t.jsonl"}, {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"stepz": 3}, 'unexpected config entry "stepz"'),
        ({"steps": "many"}, 'not valid for expected type "Int ≥ 1'),
        ({"steps": 1.5}, 'not valid for expected type "Int ≥ 1'),
        ({"steps": 0}, "config:steps of original value 0 failed"),
        ({"steps": 0}, "it must be ≥ 1 and ≤ 10,000,000, but is 0"),
        ({"optim": {"grad_clip": 0}}, "optim:grad_clip of original value 0"),
        ({"launch": {"device": "tpu"}}, "not in enum"),
        ({"mixture": [{"repeat": 2}]}, 'Missing required config entry "name"'),
    ],
)
def test_dagster_refuses_what_does_not_fit_the_types(profile: Profile, given: dict[str, Any], expected: str) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError) as caught:
        received(profile, "sft_checkpoint", given)
    assert expected.lower() in str(caught.value).lower()


def complete(profile: Profile, name: str, **changes: Any) -> dict[str, Any]:
    return STAGES[name].config(profile).model_dump(mode="json") | changes


def test_the_checked_section_is_the_stages_own(profile: Profile) -> None:
    own = complete(profile, "rl_checkpoint", steps=3)
    section = run_config_of(STAGES["rl_checkpoint"], profile, own, {"rl_checkpoint": {"config": {"steps": 3}}})
    assert section == profile.section("rl_checkpoint").model_copy(update={"steps": 3})
    assert run_config_of(STAGES["pipeline_report"], profile, None, {}) is None


def test_a_value_out_of_range_names_the_field(profile: Profile) -> None:
    with pytest.raises(ConfigError, match=r"rl_checkpoint\.temperature: Input should be greater than 0 \(got -1"):
        run_config_of(STAGES["rl_checkpoint"], profile, complete(profile, "rl_checkpoint", temperature=-1), {})


def test_fields_that_contradict_each_other_are_refused(profile: Profile) -> None:
    own = complete(profile, "sft_checkpoint", batch_tokens=2000)
    with pytest.raises(ConfigError, match=r"sft_checkpoint\.batch_tokens 2000 is not a whole number of rows"):
        run_config_of(STAGES["sft_checkpoint"], profile, own, {})


def test_a_batch_need_not_divide_by_the_ranks(profile: Profile) -> None:
    three = {"launch": {"nproc": 3}}
    own = complete(profile, "rl_checkpoint", prompts_per_step=7, **three)
    section = run_config_of(STAGES["rl_checkpoint"], profile, own, {"sft_checkpoint": {"config": three}})
    assert (section.prompts_per_step, section.launch.nproc) == (7, 3)


def test_a_mistake_in_a_later_stage_stops_the_first(profile: Profile) -> None:
    ops = {"rl_checkpoint": {"config": {"temperature": -1}}}
    with pytest.raises(ConfigError, match=r"rl_checkpoint\.temperature"):
        run_config_of(STAGES["aqua_dataset"], profile, complete(profile, "aqua_dataset"), ops)


def test_overrides_that_fit_each_other_pass_together() -> None:
    """A longer sequence does not fit the profile's mid and SFT batches, but does fit those of this run."""
    profile = Profile(name="defaults", description="16 rows of 512 tokens make a batch of 8,192 tokens")
    longer = profile.base_checkpoint.model.model_dump(mode="json") | {"sequence_len": 768}
    own = complete(profile, "base_checkpoint", model=longer, batch_tokens=7680)
    with pytest.raises(ConfigError, match=r"mid_checkpoint\.batch_tokens"):
        run_config_of(STAGES["base_checkpoint"], profile, own, {})
    ops = {name: {"config": {"batch_tokens": 7680}} for name in ("mid_checkpoint", "sft_checkpoint")}
    section = run_config_of(STAGES["base_checkpoint"], profile, own, ops)
    assert section.model.sequence_len == 768


def test_eval_reports_share_a_section_but_not_its_overrides(profile: Profile) -> None:
    ops = {"sft_eval_report": {"config": {"limit": 5}}}
    rl = run_config_of(STAGES["rl_eval_report"], profile, complete(profile, "rl_eval_report", limit=9), ops)
    assert rl.limit == 9
    ops["sft_eval_report"]["config"]["limit"] = -5
    with pytest.raises(ConfigError, match=r"eval_report\.limit"):
        run_config_of(STAGES["rl_eval_report"], profile, complete(profile, "rl_eval_report"), ops)


def test_an_override_to_a_task_that_the_chain_does_not_make_is_refused_at_once(tmp_path: Path) -> None:
    """The main task of the chain is another one, so that no asset has AQuA's questions."""
    (tmp_path / "rows.jsonl").write_text("{}\n")
    task = "{name: birds, kind: multiple_choice, train: rows.jsonl}"
    (tmp_path / "mine.yaml").write_text(f"extends: demo\ntask: {task}\n")
    mine = load_profile(str(tmp_path / "mine.yaml"))
    ops = {"rl_checkpoint": {"config": {"tasks": [{"name": "aqua"}]}}}
    for first in ("chat_datasets", "rl_checkpoint"):
        with pytest.raises(ConfigError, match=r"rl_checkpoint: with the run's overrides it reads aqua_dataset"):
            run_config_of(STAGES[first], mine, ops.get(first, {}).get("config"), ops)
    both = {"rl_checkpoint": {"config": {"tasks": [{"name": "birds"}], "steps": 3}}}
    assert run_config_of(STAGES["rl_checkpoint"], mine, both["rl_checkpoint"]["config"], both).steps == 3


def test_an_override_to_a_task_without_rows_is_refused_at_once(profile: Profile) -> None:
    ops = {"rl_checkpoint": {"config": {"tasks": [{"name": "gsm8k"}]}}}
    with pytest.raises(ConfigError, match=r"names the task 'gsm8k': add \{name: gsm8k\} to chat_datasets.sources"):
        run_config_of(STAGES["aqua_dataset"], profile, None, ops)


def test_a_field_says_its_range(profile: Profile) -> None:
    fields = config_schema(STAGES["rl_checkpoint"].config(profile))
    assert fields["group_size"].description == "Completions sampled for each question. Must be ≥ 2 and ≤ 256."
    assert fields["limit"].description.endswith("null uses all. Must be ≥ 1."), (
        "a limit against absurd values is not said"
    )
    assert "Must be" not in fields["seed"].description
