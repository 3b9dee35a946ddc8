"""The three figures against values computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aquarat_core.config import EvalConfig, load_profile
from aquarat_core.config.evaluation import check_asked_once
from aquarat_core.evaluation.protocols.generating import greedy, greedy_completions
from aquarat_core.evaluation.protocols.scoring import cued
from aquarat_core.evaluation.protocols.subject import Subject
from aquarat_core.evaluation.records import Record
from aquarat_core.evaluation.statistics import wilson_interval
from aquarat_core.evaluation.three_figures import as_text, metrics, of_evaluation, section, three_figures
from tests.factories import AQUA, examples, random_model, reading_examples, tokenizer


def record(name: str, gold: str, parsed: str | None, scores: tuple[float, ...] | None = None) -> Record:
    return Record(
        name, f"{name}?", gold, "", parsed, parsed == gold, 1, False, "stop" if scores is None else "scored",
        choice_scores=scores,
    )  # fmt: skip


GENERATED = [record("a", "A", "A"), record("b", "B", "A"), record("c", "C", None), record("d", "A", "A")]
LOGS = tuple(math.log(p) for p in (0.2, 0.1, 0.1, 0.0001, 0.0999))
CUED = [
    record("a", "A", "A", LOGS),  # 0.2 of 0.5 on letters: 0.4
    record("b", "B", "A", LOGS),  # 0.1 of 0.5: 0.2
    record("c", "C", "C", (math.log(0.1), math.log(0.1), math.log(0.3))),  # 0.6 of three letters
    record("d", "A", None),  # no room for it
]


def test_by_hand() -> None:
    found = three_figures(GENERATED, CUED)
    assert found["as_generated"] == {
        "n": 4, "value": 0.5, "lo": wilson_interval(2, 4)[0], "hi": wilson_interval(2, 4)[1]
    }  # fmt: skip
    assert found["among_parsed"]["n"] == 3 and found["among_parsed"]["value"] == pytest.approx(2 / 3)
    assert (found["among_parsed"]["lo"], found["among_parsed"]["hi"]) == wilson_interval(2, 3)
    assert found["forced_letter"]["n"] == 4 and found["forced_letter"]["value"] == 0.5
    probability = found["right_probability"]
    assert probability["n"] == 4 and probability["value"] == pytest.approx((0.4 + 0.2 + 0.6 + 0) / 4)
    assert probability["lo"] is not None and probability["hi"] is not None
    assert 0.0 <= probability["lo"] < 0.3 < probability["hi"] <= 0.6
    assert metrics(found)["accuracy_among_parsed_n"] == 3 and metrics(found)["accuracy_forced_letter"] == 0.5
    assert as_text("aqua", found).startswith("aqua: as generated 50.0% [15.0, 85.0] of 4; among those that can be read")


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Of 200 questions with probability 0.1 or 0.5, the bootstrap is within a tenth of the normal interval."""
    rows = [record(str(i), "A", "A", (math.log(p), math.log(1 - p))) for i, p in enumerate([0.1, 0.5] * 100)]
    found = three_figures(rows, rows)["right_probability"]
    assert found["lo"] is not None and found["hi"] is not None
    half = 1.96 * 0.2 / math.sqrt(200)
    assert (found["hi"] - found["lo"]) / 2 == pytest.approx(half, rel=0.1) and found["value"] == pytest.approx(0.3)


def test_no_answer_can_be_read() -> None:
    found = three_figures([record("c", "C", None)], [CUED[2]])
    assert found["among_parsed"] == {"n": 0, "value": None, "lo": None, "hi": None}
    assert "among those that can be read none of 0" in as_text("aqua", found)
    assert section(None) == [] and len(section(found)) == 2


def test_only_the_same_questions_make_three_figures() -> None:
    records = {"aqua/greedy+calculator": GENERATED, "aqua/cued+calculator": CUED}
    assert of_evaluation("aqua/greedy+calculator", records) == three_figures(GENERATED, CUED)
    assert of_evaluation("aqua/cued+calculator", records) is None
    assert of_evaluation("aqua/greedy", records) is None
    assert of_evaluation("aqua/greedy+calculator", records | {"aqua/cued+calculator": CUED[:3]}) is None


def test_the_profile_asks_for_them(tmp_path) -> None:
    config = load_profile("demo", {"eval_report": {"forced_letter": True, "tasks": []}}).section("eval_report")
    assert isinstance(config, EvalConfig)
    assert [a.name for a in config.asked("base")] == ["aqua/greedy", "aqua/cued"]
    assert "aqua/cued" in config.optional()
    with pytest.raises(ValueError, match=r"asks aqua/cued a second time, like eval_report\.forced_letter"):
        load_profile("demo", {"eval_report": {"forced_letter": True}})
    assert EvalConfig().forced is None and EvalConfig().asked() == [EvalConfig().main]
    check_asked_once(config, "sft")
    open_answers = {"task": {"kind": "numeric", "train": str(tmp_path / "rows.jsonl")}}
    (tmp_path / "rows.jsonl").write_text("{}\n")
    numeric: Any = load_profile("demo", {**open_answers, "eval_report": {"forced_letter": True, "tasks": []}})
    assert [a.protocol for a in numeric.section("eval_report").asked()] == ["greedy"]


def asked(protocol: str):
    section = EvalConfig.model_validate({"task": "aqua", "forced_letter": True, "max_new_tokens": 8})
    return section.main if protocol == "greedy" else section.forced


def test_what_was_said_once_is_not_generated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(tokenizer().vocab_size, sequence_len=256)
    some = [*examples()[:6]]
    alone = cued(Subject(model, tokenizer()), AQUA, some, asked("cued"))
    both = Subject(model, tokenizer())
    first = greedy(both, AQUA, some[:4], asked("greedy"))
    told: list[int] = []
    assert greedy(both, AQUA, some, asked("greedy"), told.append)[:4] == first and min(told) >= 4
    monkeypatch.setattr(both.engine, "generate", None)  # would fail
    assert cued(both, AQUA, some, asked("cued")) == alone
    assert greedy_completions(both, some, asked("greedy"), reserve=10_000) == [None] * 6


def test_another_limit_or_tool_is_another_completion() -> None:
    subject = Subject(random_model(tokenizer().vocab_size, sequence_len=256), tokenizer())
    some = [*reading_examples(1)]
    for changes in ({}, {"max_new_tokens": 4}, {"calculator": True}):
        config = EvalConfig.model_validate({"task": "aqua", "max_new_tokens": 8, **changes})
        (found,) = greedy_completions(subject, some, config.main)
        assert found is not None and len(found.tokens) <= config.max_new_tokens
    assert len(subject.said) == 3
