"""The comparison of two versions' artifacts: what counts as a difference and what does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.same import Found, compare
from tests.benchmarks import toys

CHECKPOINT = Found("checkpoint", "d" * 64, {"config.json": "a" * 64, "model.safetensors": "b" * 64}, {"loss": 2.5})


def _report(**changed: Any) -> Found:
    report = {"checkpoint": {"manifest_sha256": "1" * 64, "metrics": {"seconds": 3.0, "loss": 2.5}}, "rows": [{"n": 7}]}
    return Found("report", "e" * 64, {"report.json": "c" * 64, "questions.parquet": "f" * 64}, {}, report | changed)


def _compare(there: Found, here: Found) -> list[str]:
    return compare({"asset": there}, {"asset": here})[1]


def test_equal_artifacts_are_the_same() -> None:
    chain = {"base_checkpoint": CHECKPOINT, "base_eval_report": _report()}
    assert compare(chain, dict(chain)) == (5 + 4, [])


def test_a_file_is_compared_by_its_hash() -> None:
    files = CHECKPOINT.files | {"model.safetensors": "0" * 64}
    here = dataclasses.replace(CHECKPOINT, files=files, data_version="9" * 64)
    assert _compare(CHECKPOINT, here) == [
        f"asset data version: {'d' * 12} there, {'9' * 12} here",
        f"asset file model.safetensors: {'b' * 12} there, {'0' * 12} here",
    ]


def test_a_metric_is_compared_and_a_time_is_not() -> None:
    there = dataclasses.replace(CHECKPOINT, metrics={"loss": 2.5, "seconds": 1.0, "tokens_per_second": 10.0})
    here = dataclasses.replace(CHECKPOINT, metrics={"loss": 2.25, "seconds": 2.0, "tokens_per_second": 5.0})
    assert _compare(there, here) == ["asset metric loss: 2.5 there, 2.25 here"]


def test_a_report_may_differ_in_the_run_that_it_names_and_nothing_else() -> None:
    other_run = {"manifest_sha256": "2" * 64, "metrics": {"seconds": 4.0, "loss": 2.5}}
    here = dataclasses.replace(_report(checkpoint=other_run), data_version="8" * 64)
    assert _compare(_report(), here) == []
    assert _compare(_report(), _report(rows=[{"n": 8}])) == ["asset report.json rows.0.n: 7 there, 8 here"]
    assert _compare(_report(), _report(rows=[])) == ["asset report.json rows.0.n: only there"]


def test_what_only_one_side_has_is_a_difference() -> None:
    more = dataclasses.replace(CHECKPOINT, files=CHECKPOINT.files | {"extra": "a" * 64})
    assert _compare(CHECKPOINT, more) == ["asset file extra: only here"]
    assert compare({"a": CHECKPOINT}, {}) == (0, ["a: only there"])


def test_options_go_to_the_bench_that_takes_some(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checking", "--against", "HEAD"], toys) == 1
    assert capsys.readouterr().out == "checked --against HEAD\n"
    assert main(["counting", "--against", "HEAD"], toys) == 2
    assert capsys.readouterr().err == "bench: counting takes no options, got --against HEAD\n"
