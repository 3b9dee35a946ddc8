"""The bench on real rows: its lines by hand, its selection of problems, and parts that are made only once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from aquarat_core.config import load_profile
from aquarat_core.config.fields import merge
from aquarat_core.errors import DataError
from aquarat_core.evaluation.records import Record
from benchmarks import rl_real
from benchmarks.harness import BenchError
from benchmarks.real import lines
from benchmarks.real.answers import shares
from benchmarks.real.chain import PROFILE, QUICK, Chain
from benchmarks.real.lines import Group
from benchmarks.real.one_step import OneStep
from benchmarks.real.short_solutions import ShortSolutions

# --- lines ----------------------------------------------------------------------------------------------------------


def group(values: list[float], samples: int = 4) -> Group:
    return Group({f"q{i}": v for i, v in enumerate(values)}, samples * len(values))


def test_shares_are_per_question() -> None:
    one = Record("a", "?", "B", "", "B", True, 3, False, "stop")
    records = [one, replace(one, parsed=None, correct=False, sample=1), replace(one, id="b", parsed="C", correct=False)]
    assert shares(records) == {"a": 0.5, "b": 0.0}
    assert shares(records, "parsed") == {"a": 0.5, "b": 1.0}


def test_a_mean_must_be_large_enough() -> None:
    found = lines.at_least("form", "it can be read", group([1.0] * 49 + [0.0]), 0.98)
    assert (found.passed, found.value, found.n, found.answers) == (True, 0.98, 50, 200)
    assert found.interval[0] < 0.98 < found.interval[1]
    assert not lines.at_least("form", "it can be read", group([1.0] * 48 + [0.0] * 2), 0.98).passed


def test_below_chance_is_what_a_test_says() -> None:
    # Means 0 and 0.2 in equal numbers: mean 0.1, standard deviation 0.1 sqrt(100/99), so se is 0.1 / sqrt(99).
    found = lines.not_below_chance("c1", "not below a fifth", group([0.0, 0.2] * 50), 0.2)
    assert found.p == pytest.approx(0.5 * math.erfc(math.sqrt(99) / math.sqrt(2))) and not found.passed
    # Mean 0.2, as by guessing.
    assert lines.not_below_chance("c1", "", group([0.0, 0.4] * 50), 0.2).p == pytest.approx(0.5)
    # One letter for all, in all five orders: exactly a fifth of each question, without any spread.
    assert lines.not_below_chance("c1", "", group([0.2] * 30), 0.2).passed
    assert not lines.not_below_chance("c1", "", group([0.0] * 30), 0.2).passed


def test_rises_and_falls_by_hand() -> None:
    before, after = group([0.0] * 12), group([0.5] * 10 + [0.0] * 2)
    # Ten signs, all alike: 1 of 2^10 ways is as far up.
    found = lines.rises("a", "it rises", before, after, 0.4)
    assert found.p == pytest.approx(1 / 1024) and found.passed and found.difference == pytest.approx(5 / 12)
    assert not lines.rises("a", "it rises to a half", before, after, 0.5).passed
    assert not lines.does_not_rise("d", "it does not rise", before, after).passed
    assert lines.does_not_fall("b", "it does not fall", before, after).p == pytest.approx(1 - 1 / 1024)
    # Mean square 10 x 0.25 / 12; one-sided at 0.01 and a power of 0.8: z 2.3263 + 0.8416.
    assert found.detectable == pytest.approx((2.3263 + 0.8416) * math.sqrt(2.5 / 12 / 12), rel=1e-4)
    back = lines.does_not_fall("b", "it does not fall", after, before)
    assert back.p == pytest.approx(1 / 1024) and not back.passed
    assert lines.does_not_rise("d", "it does not rise", after, before).passed
    both = lines.measured("x", "either way", before, after)
    assert both.p == pytest.approx(2 / 1024) and both.passed is None
    # Six of ten rose: that may be chance.
    mixed = group([0.5] * 6 + [0.0] * 4)
    assert not lines.rises("a", "", group([0.25] * 10), mixed).passed
    with pytest.raises(AssertionError, match="not asked the same questions"):
        lines.rises("a", "", group([0.0] * 3), after)


def test_a_line_can_be_read() -> None:
    text = str(lines.rises("a", "it rises", group([0.0] * 12), group([0.5] * 10 + [0.0] * 2), 0.4))
    assert text.startswith("pass     a: it rises: 0.0 % -> 41.7 % [")
    assert "+41.7 points [" in text and "n = 12 x 4, p = 0.00098 (paired permutation of question means, one-s" in text
    missing = lines.not_measured("a", "it rises", "the stage refused")
    assert str(missing) == "FAIL     a: it rises: not measured, because the stage refused"
    assert missing.to_json() == {
        "name": "a", "claim": "it rises", "passed": False, "n": 0, "answers": 0, "reason": "the stage refused"
    }  # fmt: skip


# --- problems of one step -------------------------------------------------------------------------------------------


def row(answer: str) -> dict[str, str]:
    return {"question": "How many clips?", "answer": answer}


def test_problems_of_one_step_are_those_that_compute_once() -> None:
    task = OneStep()
    found = task.example(row("She sold 48/2 = <<48/2=24>>24 clips.\n#### 24"), "train-1")
    assert (found.reference, found.target) == ("24", "She sold 48/2 = <<48/2=24>>24 clips.\n#### 24".replace(
        "<<48/2=24>>", "<|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>"))  # fmt: skip
    assert task.grade(found, found.target, True).correct
    for answer, why in (
        ("48/2 = <<48/2=24>>24, and <<24*2=48>>48.\n#### 48", "2 computations"),
        ("It is 48.\n#### 48", "0 computations"),
        ("48/2 = <<48/2=24>>24, and twice that.\n#### 48", "it computes '24', but its answer is '48'"),
        ("48/2 = <<48/2=24>>24." + " That is so." * 20 + "\n#### 24", "characters of solution: 200 are allowed"),
    ):
        with pytest.raises(DataError, match=why):
            task.example(row(answer), "train-2")


def test_short_solutions_have_any_number_of_computations() -> None:
    task = ShortSolutions()
    assert task.example(row("48/2 = <<48/2=24>>24, and <<24*2=48>>48.\n#### 48"), "train-1").reference == "48"
    with pytest.raises(DataError, match="241 characters of solution: 200 are allowed"):
        task.example(row("So 48." + " " * 235 + "\n#### 48"), "train-2")


# --- parts ----------------------------------------------------------------------------------------------------------


def test_every_run_has_a_config() -> None:
    profile = load_profile(str(PROFILE))
    assert profile.rl_checkpoint.steps >= 150
    for changes in (*({"rl_checkpoint": variant} for variant in rl_real.VARIANTS.values()), rl_real.NUMBERS):
        assert load_profile(str(PROFILE), changes).rl_checkpoint.steps >= 150
        assert load_profile(str(QUICK), merge(changes, rl_real.SMALLER)).rl_checkpoint.steps < 10


def test_no_stage_practises_the_questions_that_rl_lifts() -> None:
    profile = load_profile(str(PROFILE))
    for entry in (*profile.mid_checkpoint.mixture, *profile.sft_checkpoint.mixture):
        assert entry.name != "task" or entry.skip == rl_real.FIXED == rl_real.FEW["limit"]


def test_a_branch_has_what_was_made_and_its_own_changes(tmp_path: Path) -> None:
    chain = Chain(tmp_path, PROFILE, {"rl_checkpoint": {"steps": 7}}, "http://127.0.0.1:9", print)
    branch = chain.branch(rl_real.NUMBERS)
    assert branch.profile({"steps": 9}).rl_checkpoint.steps == 7, "what holds for all wins"
    assert [e.name for e in branch.profile().sft_checkpoint.mixture] == ["short", "one_step"]
    assert [e.name for e in chain.profile().sft_checkpoint.mixture] == ["task"]
    branch.made["sft_checkpoint"] = object()  # type: ignore[assignment]
    assert not chain.made and branch.seconds is chain.seconds


def made(folder: Path, said: list[str], **rows: Any) -> Chain:
    """A chain whose questions are generated: no Hub is asked."""
    fields = {
        "source": "synthetic",
        "rationales": "published",
        "max_rationale_chars": None,
        "n_train": 20,
        "n_validation": 5,
        "n_test": 5,
    } | rows
    folder.mkdir(exist_ok=True)
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump({"extends": str(PROFILE), "aqua_dataset": fields}))
    return Chain(folder, file, {}, "http://127.0.0.1:9", said.append)


@pytest.mark.slow
def test_a_part_is_made_once_unless_its_config_changes(tmp_path: Path) -> None:
    said: list[str] = []
    first = made(tmp_path, said).make("aqua_dataset")
    assert made(tmp_path, said).make("aqua_dataset").sha256 == first.sha256
    assert said[1].startswith("aqua_dataset: made before in ")
    other = made(tmp_path, said, n_train=30).make("aqua_dataset")
    assert other.data_version != first.data_version and "made in" in said[2]


@pytest.mark.slow
def test_a_stage_that_fails_is_told_in_its_own_words_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for _ in range(2):
        with pytest.raises(BenchError, match=r"aqua_dataset: .*HF_HUB_OFFLINE is set.*logs/aqua_dataset.log\)"):
            made(tmp_path, [], source="hub").make("aqua_dataset")
    assert (tmp_path / "logs/aqua_dataset.log").read_text().count("---") == 2
