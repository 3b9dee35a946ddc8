"""What of a sweep can be started next, and how repetitions are compared; without Dagster and without a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aquarat_core.evaluation.comparing import Answers, correct
from aquarat_core.evaluation.records import Record
from aquarat_pipeline.sweeps import report
from aquarat_pipeline.sweeps.planning import Cell, SweepPlan, launches
from aquarat_pipeline.sweeps.spec import Sweep, read_sweep

DATA = ("aqua_dataset", "chat_datasets", "pretrain_text")
OWN = ("tokenizer", "pretrain_tokens")


@pytest.fixture
def sweep(write: Callable[[str], Path]) -> Sweep:
    return read_sweep(write("profile: demo\nfields: {tokenizer.vocab_size: [300, 400]}\nmake: [pretrain_tokens]\n"))


def plan(sweep: Sweep, made: frozenset[str] = frozenset()) -> SweepPlan:
    """A plan whose keys are the stage's name, with the vocabulary's size from the tokenizer on."""
    cells: list[Cell] = []
    seen: set[str] = set()
    for point in sweep.points:
        size = point.settings[0][1]
        for stage in point.names:
            own = stage in ("tokenizer", "pretrain_tokens")
            key = f"{stage} {size}" if own else stage
            needs = {
                "pretrain_tokens": {"tokenizer": f"tokenizer {size}"},
                "tokenizer": {"aqua_dataset": "aqua_dataset"},
            }
            how = "made" if key in made else "shared" if key in seen else "new"
            seen.add(key)
            cells.append(Cell(point, stage, key, needs.get(stage, {}), how))
    return SweepPlan(tuple(cells))


def started(sweep: Sweep, made: tuple[str, ...] = (), **state: set[str]) -> list[tuple[str, tuple[str, ...]]]:
    given = {"busy": set[str](), "blocked": set[str](), "occupied": set[str](), **state}
    found = launches(plan(sweep, frozenset(made)), **given)
    return [(launch.point.settings[0][1], launch.stages) for launch in found]


def test_what_is_common_is_made_first_and_by_one_point(sweep: Sweep) -> None:
    assert started(sweep) == [("300", DATA)]
    assert started(sweep, DATA) == [("300", OWN), ("400", OWN)]
    assert started(sweep, (*DATA, "tokenizer 300", "pretrain_tokens 300")) == [("400", OWN)]


def test_a_point_waits_only_for_what_it_needs(sweep: Sweep) -> None:
    names = [point.experiment.name for point in sweep.points]
    assert started(sweep, busy=set(DATA), occupied={names[0]}) == [], "the second needs what the first makes"
    assert started(sweep, DATA, busy={f"{name} 300" for name in OWN}, occupied={names[0]}) == [("400", OWN)]
    assert started(sweep, blocked={"aqua_dataset"}) == [("300", DATA[1:])], "the rest does not wait for what failed"
    assert started(sweep, DATA, blocked={"tokenizer 300"}) == [("400", OWN)]
    assert started(sweep, (*DATA, *(f"{name} {size}" for name in OWN for size in (300, 400)))) == []


def answers(right: list[bool]) -> Answers:
    records = [
        Record(str(n), f"question {n}", "A", "", "A" if yes else "B", yes, 1, False, "stop", prompt_sha256=str(n))
        for n, yes in enumerate(right)
    ]
    return Answers("aqua/greedy", "aqua", "greedy", "test", "grader", {"seed": 1}, records)


def test_seeds_are_averaged_by_question_and_all_comparisons_corrected(write: Callable[[str], Path]) -> None:
    sweep = read_sweep(write(
        "profile: demo\nfields: {sft_checkpoint.steps: [1, 2, 3]}\nmake: [sft_eval_report]\n"
        "seeds: {of: [sft_checkpoint], values: [1, 2]}\ncorrection: benjamini-hochberg\n"
    ))  # fmt: skip
    one, two, three = dict.fromkeys(point.settings for point in sweep.points)
    bad, good = [True] * 10 + [False] * 30, [True] * 38 + [False] * 2
    found: list[report.Compared] = []
    left_out: list[str] = []
    runs = {one: [[answers(bad)], [answers(bad)]], two: [[answers(good)], [answers(bad)]], three: []}
    report._compare("sft_eval_report", sweep, runs, found, left_out)
    correct([one.line for one in found], "benjamini-hochberg")
    (compared,) = found
    assert compared.settings == two and compared.seeds == (2, 2)
    assert compared.line["test"] == "permutation of means"
    assert compared.line["difference"] == pytest.approx(28 / 40 / 2), "half of the seeds improve 28 of 40 questions"
    assert compared.line["verdict"] == "above" and compared.line["p_corrected"] == compared.line["p"]
    assert left_out == ["sft_checkpoint.steps=3: sft_eval_report is not made yet"]
