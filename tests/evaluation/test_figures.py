"""Figures of hand-made records, by protocol, and the same again from the file of records alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aquarat_core.config import EvalConfig
from aquarat_core.config.evaluation import Asked, EvalEntry
from aquarat_core.errors import DataError
from aquarat_core.evaluation.chat_core import chat_core
from aquarat_core.evaluation.figure_types import Evaluation
from aquarat_core.evaluation.figures import evaluate, rebuild
from aquarat_core.evaluation.records import (
    SCHEMA,
    Facts,
    Record,
    as_scores,
    by_evaluation,
    read_facts,
    read_records,
    write_records,
)
from aquarat_core.evaluation.statistics import wilson_interval


def facts(protocol: Any = "greedy", name: str = "", **changed: Any) -> Facts:
    made = Facts(
        name=name or f"aqua/{protocol}", task="aqua", protocol=protocol, split="test", questions="made up",
        settings={"limit": None}, categories=list("ABCDE"), majority="B", longest=0.25, grader="g@1",
        data_asset="aqua_dataset", data_version="d" * 64,
    )  # fmt: skip
    made.update(changed)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return made


def record(i: int, gold: str, parsed: str | None, **fields: Any) -> Record:
    return Record(
        f"q{i}", f"question {i}", gold, "text", parsed, parsed == gold, 10, parsed is None,
        "length" if parsed is None else "stop",
        **{"evaluation": "aqua/greedy", "task": "aqua", "chance": 0.2, "prompt_sha256": f"{i}", **fields},
    )  # fmt: skip


def test_single_answers() -> None:
    pairs = zip("AAABBCDE", "AABBACDX", strict=True)
    records = [record(i, g, None if p == "X" else p, ambiguous=i == 2) for i, (g, p) in enumerate(pairs)]
    found = evaluate(facts(), records)
    figures = found["figures"]
    assert (found["n"], found["answers"], figures["correct"], figures["accuracy"]) == (8, 8, 5, 5 / 8)
    assert (figures["lo"], figures["hi"]) == wilson_interval(5, 8)
    assert found["baselines"] == {
        "chance": pytest.approx(0.2), "constant": {"letter": "A", "accuracy": 3 / 8},
        "majority": {"letter": "B", "accuracy": 2 / 8}, "longest": 0.25,
    }  # fmt: skip
    assert found["rates"] == {"parsed": 7 / 8, "truncated": 1 / 8, "ambiguous": 1 / 8, "too_long": 0.0}
    assert found["stop_reasons"] == {"length": 1, "stop": 7}
    assert "calibration" not in figures and "pass_at" not in figures


def test_samples_of_a_question_count_once() -> None:
    """One question always right, one never, one half the time: pass@2 of 4 samples by counting pairs."""
    right = {0: "AAAA", 1: "BBCC", 2: "DDDD"}
    golds = "ABC"
    records = [
        record(i, golds[i], answer, sample=n, protocol="sampled")
        for i, answers in right.items()
        for n, answer in enumerate(answers)
    ]
    figures = evaluate(facts("sampled"), records)["figures"]
    means = np.array([1, 0.5, 0])
    assert figures["accuracy"] == 0.5 and figures["samples"] == 4
    assert figures["se"] == pytest.approx(means.std(ddof=1) / math.sqrt(3))
    assert figures["lo"] < wilson_interval(6, 12)[0], "twelve samples of three questions are no twelve questions"
    assert list(figures["pass_at"]) == ["1", "2", "4"] and list(figures["majority_at"]) == ["2", "4"]
    assert figures["pass_at"]["1"]["value"] == pytest.approx(0.5)
    assert figures["pass_at"]["2"]["value"] == pytest.approx((1 + (1 - 1 / 6) + 0) / 3)
    assert figures["pass_at"]["2"]["guess"] == pytest.approx(1 - 0.8**2)
    assert figures["majority_at"]["4"]["value"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert figures["majority_at"]["4"]["guess"] == pytest.approx(0.2)


def scored(i: int, gold: str, probabilities: list[float], **fields: Any) -> Record:
    scores = as_scores(map(math.log, probabilities))
    best = "ABCDE"[probabilities.index(max(probabilities))]
    values = {"choice_scores": scores, "protocol": "letters", "evaluation": "aqua/letters"} | fields
    return Record(f"q{i}", f"question {i}", gold, "", best, best == gold, 0, False, "scored", task="aqua", chance=0.5,
                  **values)  # fmt: skip


def test_scores_of_letters() -> None:
    """Two letters whose probabilities add up to 0.8 and 0.6 of all; renormalized 0.75 and 2/3 for the higher."""
    records = [scored(0, "A", [0.6, 0.2]), scored(1, "A", [0.2, 0.4])]
    too_long = Record("q2", "question 2", "A", "", None, False, 0, False, "too_long", "aqua/letters", "aqua", "letters",
                      chance=0.5)  # fmt: skip
    found = evaluate(facts("letters", categories=["A", "B"]), [*records, too_long])
    figures = found["figures"]
    assert (figures["accuracy"], found["rates"]["too_long"], found["rates"]["parsed"]) == (1 / 3, 1 / 3, 2 / 3)
    assert figures["letter_mass"] == pytest.approx(0.7)
    assert figures["margin"] == pytest.approx((math.log(3) + math.log(2)) / 2, rel=1e-6)
    assert figures["gold_margin"] == pytest.approx((math.log(3) - math.log(2)) / 2, rel=1e-6)
    c = figures["calibration"]
    assert c["log_loss"] == pytest.approx(-(math.log(0.75) + math.log(1 / 3)) / 2, rel=1e-6)
    assert c["brier"] == pytest.approx((2 * 0.25**2 + 2 * (2 / 3) ** 2) / 2, rel=1e-6)
    assert c["ece"] == pytest.approx((0.25 + 2 / 3) / 2, rel=1e-6)
    assert c["confidence"] == pytest.approx((0.75 + 2 / 3) / 2, rel=1e-6)
    assert 0 < c["ece_if_calibrated"] < c["ece_if_calibrated_95"] <= 1
    assert [b["n"] for b in c["reliability"]] == [1, 1]
    only_texts = evaluate(facts("continuations", categories=["A", "B"]), records)["figures"]
    assert "letter_mass" not in only_texts and only_texts["calibration"] == c


def test_rotations() -> None:
    """One question answered by content under all orders, one always with A, and one that keeps its order."""
    shifts = range(3)
    rows = [record(0, "ABC"[s], "ABC"[s], sample=s) for s in shifts]
    rows += [record(1, "ABC"[(1 + s) % 3], "A", sample=s) for s in shifts]
    rows += [record(2, "B", "B")]
    found = evaluate(facts("rotated", categories=["A", "B", "C"]), rows)
    figures, r = found["figures"], found["figures"]["rotation"]
    assert (found["n"], found["answers"], r["rotated"], r["kept"]) == (3, 7, 2, 1)
    assert figures["accuracy"] == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert r["consistency"] is not None and r["consistency"]["value"] == 0.5 and r["agreement"] == 0.5
    assert [(p["place"], p["n"], p["accuracy"]) for p in r["by_place"]] == [(0, 2, 1.0), (1, 2, 0.5), (2, 2, 0.5)]
    assert r["bias"]["3"]["counts"] == [4, 1, 1] and r["bias"]["3"]["chi2"] == pytest.approx(3.0)
    assert r["as_given"]["value"] == pytest.approx(2 / 3)
    assert r["difference"]["value"] == pytest.approx((0 + 1 / 3 + 0) / 3)
    assert r["difference"]["lo"] <= r["difference"]["value"] <= r["difference"]["hi"]
    assert (r["difference_p"], r["difference_verdict"]) == (1.0, "no difference shown")
    # The second question is right with A in the first place only: G = 2, 1, 1.
    assert r["bias"]["3"]["cochran_q"] == pytest.approx(2) and r["bias"]["3"]["cochran_p"] == pytest.approx(
        math.exp(-1)
    )
    # Moved by 0, 1 or 2 places, the three answers of the second question are uneven in the same way.
    assert r["bias"]["3"]["p"] == 1.0


def test_a_few_rotations_that_help_are_no_difference_shown() -> None:
    """Five questions that only later orders solve: the interval leaves out 0, and no test of five can be below 0.05."""
    rows = [record(i, "AB"[s], "B" if i < 5 else "AB"[s], sample=s) for i in range(100) for s in range(2)]
    r = evaluate(facts("rotated", categories=["A", "B"]), rows)["figures"]["rotation"]
    assert r["difference"]["lo"] > 0 and r["difference_p"] == 0.0625
    assert r["difference_verdict"] == "no difference shown"


def test_several_answers_are_tested_against_guessing() -> None:
    rows = [record(i, "A", "A" if i < 12 else "B", sample=n) for i in range(20) for n in range(4)]
    assert evaluate(facts("sampled"), rows)["figures"]["p_above_chance"] < 0.001
    wrong = [replace(r, parsed="B", correct=False) for r in rows]
    assert evaluate(facts("sampled"), wrong)["figures"]["p_above_chance"] == 1
    turned = [record(i, "ABCDE"[s], "ABCDE"[s] if i < 12 else "A", sample=s) for i in range(20) for s in range(5)]
    assert evaluate(facts("rotated"), turned)["figures"]["p_above_chance"] < 0.001
    always = [record(i, "ABCDE"[s], "A", sample=s) for i in range(20) for s in range(5)]
    assert evaluate(facts("rotated"), always)["figures"]["p_above_chance"] == 1
    # Of open answers no guess is right, so there is nothing to be above.
    assert "p_above_chance" not in evaluate(facts("sampled"), [replace(r, chance=0.0) for r in rows])["figures"]


def test_every_rate_has_its_interval() -> None:
    rows = [record(i, "A", None if i == 0 else "A", ambiguous=i < 3) for i in range(50)]
    found = evaluate(facts(), rows)
    assert found["rates"]["parsed"] == 0.98
    assert tuple(found["rate_intervals"]["parsed"].values()) == wilson_interval(49, 50)
    assert tuple(found["rate_intervals"]["ambiguous"].values()) == wilson_interval(3, 50)
    # Samples of a question that all fail alike are no more evidence than one.
    often = evaluate(facts("sampled"), [replace(r, sample=n) for r in rows for n in range(4)])
    assert often["rate_intervals"]["parsed"]["lo"] == pytest.approx(wilson_interval(49, 50)[0], abs=0.002)


def test_rotations_of_which_none_rotates() -> None:
    r = evaluate(facts("rotated"), [record(i, "A", "B") for i in range(3)])["figures"]["rotation"]
    assert (r["rotated"], r["consistency"], r["bias"], r["by_place"]) == (0, None, {}, [])


def test_a_program_is_no_name_of_a_baseline() -> None:
    found = evaluate(facts(categories=[], majority=None, longest=None), [record(0, "x" * 500, None)])
    assert len(found["baselines"]["constant"]["letter"]) == 80 and found["baselines"]["majority"] is None


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[Facts], list[Record]]:
    """A file with three evaluations."""
    said = [facts(), facts("letters", categories=["A", "B"]), facts("sampled")]
    records = [record(i, "ABCDE"[i % 5], "A") for i in range(11)]
    rng = np.random.default_rng(0)
    records += [scored(i, "AB"[i % 2], [float(x) for x in rng.uniform(0.01, 0.4, 2)]) for i in range(20)]
    records += [
        record(i, "A", "AB"[(i + n) % 2], sample=n, protocol="sampled", evaluation="aqua/sampled")
        for i in range(4)
        for n in range(3)
    ]
    write_records(tmp_path / "questions.parquet", records, said)
    return tmp_path / "questions.parquet", said, records


def test_a_report_can_be_rebuilt_from_its_records_alone(written: tuple[Path, list[Facts], list[Record]]) -> None:
    path, said, records = written
    assert read_records(path) == records and read_facts(path) == said
    by_name = by_evaluation(records)
    assert list(by_name) == ["aqua/greedy", "aqua/letters", "aqua/sampled"]
    assert rebuild(path) == [evaluate(f, by_name[f["name"]]) for f in said]


def test_files_of_before_are_read_and_cannot_be_rebuilt(tmp_path: Path) -> None:
    record_now = record(3, "A", "A")
    columns = SCHEMA.names[:9]
    old = pa.table({name: [getattr(record_now, name)] for name in columns}, schema=pa.schema(list(SCHEMA)[:9]))
    pq.write_table(old, tmp_path / "old.parquet")
    (found,) = read_records(tmp_path / "old.parquet")
    assert (found.task, found.protocol, found.sample, found.choice_scores) == ("", "greedy", 0, None)
    assert found.completion == record_now.completion and found.correct
    with pytest.raises(DataError, match="has no facts about its evaluations, it is of an older report: materialize"):
        rebuild(tmp_path / "old.parquet")


def test_facts_of_another_format_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pydict({name: [] for name in SCHEMA.names}, schema=SCHEMA)
    pq.write_table(table.replace_schema_metadata({b"aquarat.evaluations": b'{"format": 7}'}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="has facts of format 7, not 1"):
        read_facts(tmp_path / "x.parquet")


def test_an_evaluation_without_records_says_so() -> None:
    with pytest.raises(DataError, match="aqua/greedy has no records"):
        evaluate(facts(), [])


# --- ChatCORE ---------------------------------------------------------------------------------------------------------


def asked(task: str, protocol: str, **fields: Any) -> Asked:
    return EvalConfig(task="aqua").resolved(EvalEntry.model_validate({"task": task, "protocol": protocol, **fields}))


def evaluation(one: Asked, right: int, n: int) -> Evaluation:
    rows = [record(i, "A", "A" if i < right else "B", evaluation=one.name) for i in range(n)]
    return evaluate(facts(one.protocol, one.name, task=one.task), rows)


WAYS = [
    asked("arc_easy", "letters"), asked("arc_challenge", "letters"), asked("mmlu", "letters"),
    asked("gsm8k", "greedy", calculator=True), asked("gsm8k", "greedy"), asked("humaneval", "greedy"),
    asked("spelling", "greedy"), asked("aqua", "greedy"),
]  # fmt: skip


def test_chat_core_is_the_mean_of_what_is_left_above_guessing() -> None:
    right = [50, 25, 40, 30, 10, 0, 100, 36]
    found = chat_core(WAYS, [evaluation(w, r, 100) for w, r in zip(WAYS, right, strict=True)])
    assert found is not None
    centered = [(0.5 - 0.25) / 0.75, 0.0, 0.15 / 0.75, 0.3, 0.0, 1.0, 0.16 / 0.8]
    assert found["name"] == "ChatCORE" and found["absent"] == []
    assert found["value"] == pytest.approx(sum(centered) / 7)
    assert found["lo"] < found["value"] < found["hi"]
    assert [(t["task"], t["counts"]) for t in found["tasks"]][3:5] == [("gsm8k", True), ("gsm8k", False)]
    assert [t["centered"] for t in found["tasks"] if t["counts"]] == pytest.approx(centered)


def test_chat_core_of_fewer_tasks_has_another_name() -> None:
    some = [WAYS[0], WAYS[4], WAYS[7]]
    found = chat_core(some, [evaluation(w, 50, 100) for w in some])
    # GSM8K without the calculator alone is not what counts.
    assert found is not None and found["name"] == "ChatCORE-2"
    assert found["absent"] == ["arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling"]
    assert chat_core([], [evaluation(WAYS[0], 1, 2)]) is None
