"""What a profile asks checkpoints besides the main task: names, protocols, phases, and what is filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from aquarat_core.config import ConfigError, EvalConfig, Profile, load_profile, override
from aquarat_core.config.evaluation import CHAT_CORE
from aquarat_core.config.protocols import OF_CHOICES
from aquarat_core.stages.costs import cost_of
from aquarat_core.stages.registry import CHAIN, STAGES
from aquarat_core.tasks.registry import TASKS, load_task

SOURCES = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling", "identity", "drills")
HUB = {"source": "hub", "sources": [{"name": n, **({"n_train": 0} if n == "humaneval" else {})} for n in SOURCES]}


def load(folder: Path, **fields: Any) -> Profile:
    """The demo without its own entries."""
    asked = {"tasks": [], **fields.pop("eval_report", {})}
    (folder / "mine.yaml").write_text(yaml.safe_dump({"extends": "demo", "eval_report": asked, **fields}))
    return load_profile(str(folder / "mine.yaml"))


def evaluation(profile: Profile) -> EvalConfig:
    section = profile.section("eval_report")
    assert isinstance(section, EvalConfig)
    return section


def test_the_main_task_comes_first_and_alone_by_default() -> None:
    section = evaluation(load_profile("d12"))
    assert section.main.name == "aqua/greedy+calculator"
    assert section.asked("rl")[0] == section.main
    assert evaluation(load_profile("demo")).main.name == "aqua/greedy"


def test_entries_take_from_the_section_what_they_leave_out(tmp_path: Path) -> None:
    entries = [
        {"protocol": "sampled", "limit": 7},
        {"task": "gsm8k", "split": "validation", "calculator": True, "max_new_tokens": 9, "of": ["sft", "rl"]},
        {"protocol": "letters", "cue": "bare"},
    ]
    chats = {**HUB, "sources": [*HUB["sources"][:3], {"name": "gsm8k", "n_validation": 5}, *HUB["sources"][4:]]}
    profile = load(tmp_path, chat_datasets=chats, eval_report={"tasks": entries, "max_new_tokens": 40})
    section = evaluation(profile)
    names = ["aqua/greedy", "aqua/sampled", "gsm8k@validation/greedy+calculator", "aqua/letters-bare"]
    assert [a.name for a in section.asked("rl")] == names
    assert [a.name for a in section.asked("base")] == [*names[:2], names[3]]
    sampled, gsm8k = section.asked("rl")[1:3]
    assert (sampled.samples, sampled.temperature, sampled.limit, sampled.max_new_tokens) == (16, 1.0, 7, 40)
    assert (gsm8k.samples, gsm8k.temperature, gsm8k.max_new_tokens) == (1, 0.0, 9)
    assert set(sampled.settings) > {"samples", "temperature"} and "cue" not in sampled.settings
    assert section.tasks[0].task == "aqua" and section.tasks[0].split == "test"
    # 500 test rows of gsm8k are not asked, 5 of validation are; 2,000 and 7 x 16 of the main task.
    chats_section, aqua = profile.section("chat_datasets"), profile.section("aqua_dataset")
    sections = {"eval": section, "chat_datasets": chats_section, "aqua_dataset": aqua, "rl_eval_report": section}
    assert cost_of("rl_eval_report", sections).sampled == 2000 * 40 + 7 * 16 * 40 + 5 * 9


def test_what_is_evaluated_besides_changes_nothing_but_the_reports(tmp_path: Path) -> None:
    plain = load(tmp_path, chat_datasets=HUB)
    asking = load(tmp_path, chat_datasets=HUB, eval_report={"tasks": [{"task": "mmlu", "protocol": "letters"}]})
    differing = {name for name in STAGES if STAGES[name].config(plain) != STAGES[name].config(asking)}
    assert differing == {f"{phase}_eval_report" for phase in CHAIN}
    report = STAGES["rl_eval_report"]
    assert "chat_datasets" not in report.needs(report.config(plain))
    assert "chat_datasets" in report.needs(report.config(asking))
    assert TASKS["mmlu"] in report.tasks(report.config(asking))


def test_chat_core_takes_the_tasks_there_are(tmp_path: Path) -> None:
    section = evaluation(load(tmp_path, chat_datasets=HUB, eval_report={"chat_core": {"limit": 5}}))
    assert section.chat_core and section.chat_core.tasks == tuple(name for name, _, _ in CHAT_CORE)
    names = [a.name for a in section.of_chat_core("sft")]
    assert names == [
        "arc_easy/letters", "arc_challenge/letters", "mmlu/letters", "gsm8k/greedy+calculator", "gsm8k/greedy",
        "humaneval/greedy", "spelling/greedy", "aqua/greedy",
    ]  # fmt: skip
    # The main task is AQuA, greedy, and is not asked again.
    assert [a.name for a in section.asked()] == ["aqua/greedy", *names[:-1]]
    sources = [s for s in HUB["sources"] if s["name"] not in ("arc_easy", "humaneval")]
    sources[1] = {"name": "mmlu", "n_test": 0}
    fewer = load(tmp_path, chat_datasets={**HUB, "sources": sources}, eval_report={"chat_core": {"of": ["rl"]}})
    chat_core = evaluation(fewer).chat_core
    assert chat_core and chat_core.tasks == ("arc_challenge", "gsm8k", "spelling", "aqua")
    assert evaluation(fewer).of_chat_core("base") == [] != evaluation(fewer).of_chat_core("rl")
    # A section as a run's override gives it back is taken as it is.
    again = override(fewer, {"eval_report": evaluation(fewer).model_dump(mode="json")})
    assert evaluation(again) == evaluation(fewer)


def test_aqua_is_only_in_chat_core_where_the_chain_is_about_it(tmp_path: Path) -> None:
    chats = {**HUB, "sources": [*HUB["sources"][:3], {"name": "gsm8k", "n_validation": 5}, *HUB["sources"][4:]]}
    profile = load(tmp_path, task="gsm8k", chat_datasets=chats, eval_report={"chat_core": {}})
    chat_core = evaluation(profile).chat_core
    assert chat_core and "aqua" not in chat_core.tasks
    assert "aqua_dataset" not in STAGES["rl_eval_report"].needs(STAGES["rl_eval_report"].config(profile))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tasks": [{"task": "mmul"}]}, "eval_report.tasks[0] names 'mmul': did you mean 'mmlu'?"),
        ({"tasks": [{"task": "arc"}]}, "eval_report.tasks[0] names the task 'arc': add {name: arc} to chat_datasets"),
        ({"tasks": [{}]}, "eval_report.tasks[0] asks aqua/greedy a second time, like the main evaluation"),
        ({"tasks": [{"limit": 3, "max_new_tokens": 5}]}, "asks aqua/greedy a second time"),
        ({"tasks": [{"protocol": "letters"}, {"protocol": "letters", "limit": 1}]}, "like eval_report.tasks[0]"),
        ({"tasks": [{"task": "gsm8k", "protocol": "letters"}]}, "gsm8k under protocol 'letters', which needs lettered"),
        ({"tasks": [{"task": "spelling", "protocol": "rotated"}]}, "which needs lettered options, and it has none"),
        ({"tasks": [{"protocol": "guess"}]}, "protocol"),
        ({"tasks": [{"protocol": "letters", "of": ["slf"]}]}, "tasks[0].of names 'slf', and the phases are"),
        ({"tasks": [{"task": "gsm8k", "split": "validation"}]}, "needs validation rows of gsm8k, but none are kept"),
        ({"tasks": [{"samples": 4}]}, "samples belongs to protocol sampled, and this one is 'greedy'"),
        ({"tasks": [{"protocol": "letters", "calculator": True}]}, "calculator belongs to protocol cued or greedy"),
        ({"tasks": [{"protocol": "letters", "max_new_tokens": 4}]}, "max_new_tokens belongs to protocol"),
        ({"tasks": [{"protocol": "sampled", "max_new_tokens": 256}]}, "eval_report.tasks[0].max_new_tokens 256 leaves"),
        ({"tasks": [{"protocol": "cued", "cue": "bare"}]}, "cue belongs to protocol letters"),
        ({"tasks": [{"protocol": "sampled", "samples": 1}]}, "samples"),
        ({"chat_core": {"of": ["basis"]}}, "eval_report.chat_core.of names 'basis'"),
        ({"chat_core": {"tasks": ["mmlu"]}}, "eval_report.chat_core.tasks is filled in"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_with_the_way_out(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, chat_datasets=HUB, eval_report=fields)
    assert said in str(caught.value)


def test_chat_core_without_any_of_its_tasks_is_refused(tmp_path: Path) -> None:
    own = {"kind": "numeric", "train": "rows.jsonl"}
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"eval_report\.chat_core: the profile keeps test rows of none of its tasks"):
        load(tmp_path, task=own, eval_report={"chat_core": {}})


def test_what_a_profile_asks_of_its_options_is_left_out_for_a_task_without_any(tmp_path: Path) -> None:
    """A profile of one's own extends a built-in one, which knows nothing of its task."""
    assert {a.protocol for a in evaluation(load_profile("demo")).asked("rl")} > OF_CHOICES - {"continuations"}
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"extends": "demo", "task": {"kind": "numeric", "train": "rows.jsonl"}})
    )
    section = evaluation(load_profile(str(tmp_path / "mine.yaml")))
    assert [a.name for a in section.asked("rl")] == ["own/greedy", "own/sampled"]
    # Only a module knows whether it has options: the report finds out.
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"extends": "demo", "task": {"module": "mine.py", "train": "rows.jsonl"}})
    )
    section = evaluation(load_profile(str(tmp_path / "mine.yaml")))
    assert section.optional("rl") == {"own/letters", "own/cued", "own/rotated"}


def test_two_entries_of_different_phases_may_ask_the_same(tmp_path: Path) -> None:
    entries = [{"protocol": "letters", "of": ["base"]}, {"protocol": "letters", "limit": 5, "of": ["rl"]}]
    section = evaluation(load(tmp_path, eval_report={"tasks": entries}))
    assert [a.limit for a in section.asked("base")] == [None, None]
    assert [a.limit for a in section.asked("rl")] == [None, 5]


@pytest.mark.parametrize("name", TASKS)
def test_the_table_of_tasks_with_options_agrees_with_what_tasks_support(name: str) -> None:
    protocols = set(load_task(name).protocols)
    assert protocols >= {"greedy", "sampled"}
    assert protocols & OF_CHOICES == (OF_CHOICES if load_profile("demo").names.has_options(name) else set())
